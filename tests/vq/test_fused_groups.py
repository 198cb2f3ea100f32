"""The GPU kernels, run by Triton's interpreter on a CPU, against the search written in torch."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed; make test installs it on Linux")

# The interpreter must be chosen before torch and triton are imported, so in a process of its own.
PROGRAM = """
import json, sys
import torch
from crvq.vq import kernels as fused
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.feedback_search import search_codes
from tests.vq.coded_examples import random_linear

calls = {"fused": 0}
serves = fused.fused_groups_for

def both(work):
    def counted(device, codebooks):
        module = serves(device, codebooks)
        calls["fused"] += module is not None
        return module
    from crvq.vq import coordinate_descent, feedback_search
    results = []
    for chosen in (counted, lambda device, codebooks: None):
        coordinate_descent.fused_groups_for = feedback_search.fused_groups_for = chosen
        results.append(work())
    return results

out = []
for case in json.loads(sys.argv[1]):
    linear, codebooks = random_linear(**case)
    def descend():
        fresh, books = random_linear(**case)
        losses = descend_codes(fresh, books, block_columns=12)
        return [c.tolist() for c in fresh.code.codes], losses.tolist()
    def search():
        fresh, books = random_linear(**case)
        return [c.tolist() for c in search_codes(fresh, books, 1, block_columns=12).codes]
    before = calls["fused"]
    out.append({"descent": both(descend), "feedback": both(search),
                "fused": calls["fused"] - before})
print(json.dumps(out))
"""

CASES = [
    {"out": 37, "groups": 6, "d": 4, "coverage": [6], "entries": [16]},
    {"out": 5, "groups": 5, "d": 3, "coverage": [5, 2, 1], "entries": [4, 3, 3]},
    {"out": 4, "groups": 4, "d": 2, "coverage": [4, 1, 3], "entries": [7, 3, 30]},
    {"out": 33, "groups": 7, "d": 8, "coverage": [7, 1, 1, 1], "entries": [300, 16, 16, 16]},
    {"out": 6, "groups": 13, "d": 1, "coverage": [13], "entries": [6]},
]


@pytest.fixture(scope="module")
def compared():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(CASES)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", range(len(CASES)))
def test_descent_chooses_the_same_codes(compared, index):
    (fused_codes, fused_loss), (codes, loss) = compared[index]["descent"]
    assert compared[index]["fused"] > 0
    assert fused_codes == codes
    assert fused_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("index", range(len(CASES)))
def test_feedback_search_chooses_the_same_codes(compared, index):
    fused_codes, codes = compared[index]["feedback"]
    assert fused_codes == codes
