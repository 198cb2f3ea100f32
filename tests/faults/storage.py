"""Disks that are full or read-only: one line, nothing lost, and the same command resumes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.bench import SCENARIOS, Bench, assert_one_line
from tests.faults.fault import Fault, SkippedError
from tests.faults.inject import Injection
from tests.faults.kills import check_kept, places

PLACES_EACH = 5
SIZES = (16, 40, 64, 100, 128, 200)
"""KiB of real file systems that a run does not fit on."""
REASONS = {errno.ENOSPC: ("disk is full", "No space left"), errno.EROFS: ("read-only",)}


def faults(seed: int) -> Iterator[Fault]:
    """All faults of this file."""
    for scenario in SCENARIOS:
        for number in range(PLACES_EACH):
            yield Fault(
                "disk full from a write on",
                f"{scenario}, write {number + 1} of {PLACES_EACH}",
                lambda bench, s=scenario, n=number: _fails_from(bench, s, n, errno.ENOSPC),
                short=(scenario, number) in (("plain", 3), ("added", 1)),
            )
        yield Fault(
            "read-only folders",
            f"{scenario}, from the first write on",
            lambda bench, s=scenario: _fails_from(bench, s, 0, errno.EROFS),
        )
        yield Fault(
            "read-only folders",
            f"{scenario}, a file system that is mounted read-only",
            lambda bench, s=scenario: _mounted_read_only(bench, s),
        )
    for scenario in ("plain", "block_e2e"):
        for size in SIZES:
            yield Fault(
                "disk full, a real file system",
                f"{scenario}, {size} KiB",
                lambda bench, s=scenario, k=size: _too_small(bench, s, k),
                short=(scenario, size) == ("plain", 100),
            )


def _fails_from(bench: Bench, scenario: str, number: int, code: int) -> None:
    chosen = places(bench, scenario, PLACES_EACH)
    at = 1 if code == errno.EROFS else chosen[min(number, len(chosen) - 1)]
    case = bench.case_from(bench.before(scenario))
    fault = Injection(at_write=at, errno=code)
    ended = bench.run(case, bench.command(scenario), fault)
    assert "Traceback" not in ended.said, ended.said[-2500:]
    if ended.code != 0:  # what only spares later work (caches, heartbeats) may be left out
        assert_one_line(ended, *REASONS[code])
    check_kept_if_any(bench, scenario, case)
    bench.finishes(case, scenario)


def check_kept_if_any(bench: Bench, scenario: str, case: Path) -> None:
    if any(case.glob("results/default/**/record.json")):
        check_kept(bench, scenario, case)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise SkippedError("mounting needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "faults", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SkippedError("mounting is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _too_small(bench: Bench, scenario: str, size: int) -> None:
    bench.honest(scenario)
    case = bench.new_case()
    with _mounted(case / "results", f"size={size}k"):
        ended = bench.run(case, bench.command(scenario))
        if ended.code != 0:
            assert_one_line(ended, *REASONS[errno.ENOSPC])
        _remount(case / "results", "size=64m")
        bench.finishes(case, scenario)


def _mounted_read_only(bench: Bench, scenario: str) -> None:
    state = bench.before(scenario)
    bench.honest(scenario)
    case = bench.new_case()
    with _mounted(case / "results", "size=64m"):
        if state is not None:
            shutil.copytree(state, case, dirs_exist_ok=True)
        _remount(case / "results", "ro")
        ended = bench.run(case, bench.command(scenario))
        assert_one_line(ended, *REASONS[errno.EROFS], "not writable")
        _remount(case / "results", "rw")
        bench.finishes(case, scenario)
