"""Checkpoints from strangers: every mutation is harmless, or one error at bounded memory.

The long form: ``python -m pytest -m faults tests/faults``.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MEMORY_BOUND = 128 << 20
"""Bytes that reading any mutated checkpoint of some kilobytes may add to the process's peak."""


def fuzzed(count, seed, limit):
    command = [sys.executable, "-m", "tests.faults.checkpoint_fuzz"]
    done = subprocess.run(
        [*command, "--count", str(count), "--seed", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(found, count):
    assert found["faults"] == [], json.dumps(found["faults"][:3], indent=1)
    assert found["tried"] == sum(found["outcomes"].values()) == count
    assert found["peak_growth_bytes"] < MEMORY_BOUND
    # Mutations that are all refused for one reason, or all harmless, would try nothing.
    assert found["kinds_of_refusal"] > 10


def test_mutated_checkpoints_are_read_or_refused():
    check(fuzzed(200, seed=0, limit=300), 200)


@pytest.mark.faults
def test_two_thousand_mutated_checkpoints_are_read_or_refused():
    found = fuzzed(2500, seed=1, limit=3000)
    sys.stdout.write(json.dumps(found, indent=1))
    check(found, 2500)
