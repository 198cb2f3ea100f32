"""Checkpoints from strangers: every mutation is harmless, or one error at bounded memory.

The long form: ``python -m pytest -m faults tests/faults``.
"""

import json
import sys

import pytest

from tests.faults.checkpoint_fuzz import fuzz
from tests.forked import forked

MEMORY_BOUND = 128 << 20
"""Bytes that reading any mutated checkpoint of some kilobytes may add to the process's peak."""


def fuzzed(count, seed, limit, folder):
    """What a process of its own finds: it may use up its memory, or never end."""

    def work():
        sys.stdout.write(json.dumps(fuzz(count, seed)))

    done = forked(work, folder / "found.json")
    assert done.wait(limit) == 0, done.said()[-3000:]
    return json.loads(done.said().splitlines()[-1])


def check(found, count):
    assert found["faults"] == [], json.dumps(found["faults"][:3], indent=1)
    assert found["tried"] == sum(found["outcomes"].values()) == count
    assert found["peak_growth_bytes"] < MEMORY_BOUND
    # Mutations that are all refused for one reason, or all harmless, would try nothing.
    assert found["kinds_of_refusal"] > 10


def test_mutated_checkpoints_are_read_or_refused(tmp_path):
    check(fuzzed(200, 0, 300, tmp_path), 200)


@pytest.mark.faults
def test_two_thousand_mutated_checkpoints_are_read_or_refused(tmp_path):
    found = fuzzed(2500, 1, 3000, tmp_path)
    sys.stdout.write(json.dumps(found, indent=1))
    check(found, 2500)
