"""Processes at the same time, clocks that jump, trackers that fail, and other versions' files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crvq.files.digests import values_digest
from tests.faults.bench import (
    SCENARIOS,
    STOP_SECONDS,
    TIMEOUT,
    Bench,
    assert_equal,
    assert_one_line,
    assert_stopped,
    content,
    outcome,
    run_folder,
)
from tests.faults.fault import Fault
from tests.faults.inject import KILL, TERM, Injection

CLOCKS = ("forward", "back", "shaking")
WANDB = (
    "init raises", "init hangs", "init slow", "log raises", "log hangs", "log slow",
    "finish raises", "finish hangs", "init exits",
)  # fmt: skip
TRACKED = ("tracking=online", "tracking.timeout_seconds=2")


def faults(seed: int) -> Iterator[Fault]:
    """All faults of this file."""
    for scenario in ("plain", "block_e2e", "forced", "added"):
        for count in (2, 3):
            yield Fault(
                "concurrent starts",
                f"{scenario}, {count} processes",
                lambda bench, s=scenario, n=count: _together(bench, s, n),
                short=(scenario, count) == ("plain", 3),
            )
        yield Fault(
            "concurrent starts",
            f"{scenario}, if_locked=error",
            lambda bench, s=scenario: _refused_lock(bench, s),
        )
        yield Fault(
            "concurrent starts",
            f"{scenario}, the first is killed while the second waits",
            lambda bench, s=scenario: _first_is_killed(bench, s),
        )
    for scenario in ("plain", "block_e2e", "forced"):
        for how in CLOCKS:
            yield Fault(
                "a clock that jumps",
                f"{scenario}, {how}",
                lambda bench, s=scenario, h=how: _clock(bench, s, h),
                short=(scenario, how) == ("plain", "shaking"),
            )
    for what in WANDB:
        yield Fault(
            "W&B down, slow or throwing",
            what,
            lambda bench, w=what: _wandb(bench, w),
            short=what == "init hangs",
        )
    yield Fault("W&B down, slow or throwing", "init hangs, then SIGTERM", _wandb_stopped)
    for name in VERSIONS:
        yield Fault(
            "files of other versions",
            name,
            lambda bench, n=name: VERSIONS[n](bench),
            short=name.startswith(("a newer manifest", "an older record, finished")),
        )


# -- processes at the same time


def _together(bench: Bench, scenario: str, count: int) -> None:
    bench.honest(scenario)
    case = bench.case_from(bench.before(scenario))
    arguments = bench.command(scenario)
    pids = []
    for _ in range(count):
        pids.append(bench.start(case, arguments))
        time.sleep(0.05)
    codes = [bench.server.wait(pid, TIMEOUT) for pid in pids]
    said = case.with_suffix(".out").read_text()
    assert codes == [0] * count, f"{codes}: {said[-2000:]}"
    folder = run_folder(case)
    assert_equal(outcome(folder), bench.honest(scenario))
    if scenario == "forced":
        return  # each one is asked to compute again
    record = json.loads((folder / "record.json").read_text())
    assert (record["resumes"], len(record["attempts"])) == (0, 1)
    assert len(record["added_evaluations"]) == (1 if scenario == "added" else 0)
    log = (folder / "run.log").read_text()
    assert log.count("block 0: relative loss") == 1


def _refused_lock(bench: Bench, scenario: str) -> None:
    seconds = bench.seconds(scenario)
    case = bench.case_from(bench.before(scenario))
    # The first stands still with the lock held, in the middle of its work.
    first = bench.start(case, bench.command(scenario), Injection(
        at_call="crvq.pipeline.evaluate:Evaluation.quantized", signals=(19,)))  # fmt: skip
    locked = list(case.glob("results/default/.locks/*.lock.json"))
    deadline = time.monotonic() + 20 + seconds
    while not locked and time.monotonic() < deadline:
        time.sleep(0.02)
        locked = list(case.glob("results/default/.locks/*.lock.json"))
    assert locked, "no lock was taken"
    ended = bench.run(case, [*bench.command(scenario), "if_locked=error"])
    bench_kill(first)
    bench.server.wait(first, TIMEOUT)
    assert_one_line(ended, "is being worked on by process")
    bench.finishes(case, scenario)


def bench_kill(pid: int) -> None:
    """End a process of the suite's own."""
    import os

    os.kill(pid, KILL)


def _first_is_killed(bench: Bench, scenario: str) -> None:
    seconds = bench.seconds(scenario)
    case = bench.case_from(bench.before(scenario))
    first = bench.start(case, bench.command(scenario))
    time.sleep(seconds * 0.3)
    second = bench.start(case, bench.command(scenario))
    time.sleep(seconds * 0.4)
    bench_kill(first)
    bench.server.wait(first, TIMEOUT)
    code = bench.server.wait(second, TIMEOUT)
    assert code == 0, case.with_suffix(".out").read_text()[-2000:]
    assert_equal(outcome(run_folder(case)), bench.honest(scenario))


# -- clocks and trackers


def _clock(bench: Bench, scenario: str, how: str) -> None:
    bench.honest(scenario)
    case = bench.case_from(bench.before(scenario))
    ended = bench.run(case, bench.command(scenario), Injection(clock=how))
    assert ended.code == 0, ended.said[-2500:]
    assert_equal(outcome(run_folder(case)), bench.honest(scenario))
    bench.finishes(case, scenario)


def _wandb(bench: Bench, what: str) -> None:
    seconds = bench.seconds("plain")
    case = bench.new_case()
    arguments = bench.arguments(*TRACKED)
    ended = bench.run(case, arguments, Injection(wandb=what))
    assert ended.code == 0, f"exit {ended.code}: {ended.said[-2000:]}"
    assert "Traceback" not in ended.said, ended.said[-2500:]
    # Two seconds of patience, and as much again for going offline; the machine may be busy.
    assert ended.seconds < 3 * seconds + 8, f"{ended.seconds:.1f} s"
    assert_equal(outcome(run_folder(case)), bench.honest("plain"))
    if "slow" not in what:
        said = ended.said + (run_folder(case) / "run.log").read_text()
        assert "W&B" in said, said[-2000:]


def _wandb_stopped(bench: Bench) -> None:
    bench.honest("plain")
    case = bench.new_case()
    fault = Injection(
        wandb="init hangs",
        at_call="crvq.pipeline.blockwise:BlockwiseQuantizer._quantize",
        nth_call=2,
        signals=(TERM,),
    )
    arguments = bench.arguments("tracking=online", "tracking.timeout_seconds=60")
    ended = bench.run(case, arguments, fault)
    assert_stopped(ended, TERM)
    assert ended.seconds < STOP_SECONDS + 3 * bench.seconds("plain")
    bench.finishes(case, "plain")


# -- files of other versions


def _rewrite_record(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "record.json"
    values = json.loads(path.read_text())
    change(values)
    values.pop("digest", None)
    if values["schema_version"] >= 2:
        values["digest"] = values_digest(values)
    path.write_text(json.dumps(values, indent=2))


def _as_version_1(values: dict[str, Any]) -> None:
    values["schema_version"] = 1
    for key in ("algorithm", "files"):
        values.pop(key, None)


def _newer(values: dict[str, Any]) -> None:
    values["schema_version"] = 99
    values["something_new"] = {"a": [1, 2]}


def _older_record(bench: Bench, *, finished: bool) -> None:
    case = bench.case_from(bench.finished("plain") if finished else _unfinished(bench))
    _rewrite_record(run_folder(case), _as_version_1)
    bench.finishes(case, "plain")
    ended = bench.run(case, bench.command("added"))
    assert ended.code == 0, ended.said[-2000:]
    assert_equal(outcome(run_folder(case)), bench.honest("added"))


def _newer_record(bench: Bench, *, finished: bool, forced: bool = False) -> None:
    case = bench.case_from(bench.finished("plain") if finished else _unfinished(bench))
    _rewrite_record(run_folder(case), _newer)
    before = content(case)
    ended = bench.run(case, bench.command("forced" if forced else "plain"))
    assert_one_line(ended, "schema_version 99")
    assert content(case) == before, "a file of a newer version was changed"


def _newer_manifest(bench: Bench, *, finished: bool) -> None:
    case = bench.case_from(bench.finished("plain") if finished else _unfinished(bench))
    path = run_folder(case) / "checkpoint" / "manifest.json"
    honest = path.read_bytes()
    path.write_text(json.dumps({**json.loads(honest), "format_version": 99}))
    tensors = {name: one for name, one in content(case).items() if "checkpoint" in name}
    ended = bench.run(case, bench.command("added" if finished else "plain"))
    assert_one_line(ended, "format version 99")
    after = {name: one for name, one in content(case).items() if "checkpoint" in name}
    assert after == tensors, "a file of a newer version was changed"
    if finished:
        record = json.loads((run_folder(case) / "record.json").read_text())
        assert record["status"] == "complete"
    path.write_bytes(honest)
    bench.finishes(case, "added" if finished else "plain")


def _unfinished(bench: Bench) -> Path:
    bench.honest("plain")

    def make(folder: Path) -> None:
        function = "crvq.pipeline.blockwise:BlockwiseQuantizer._quantize"
        fault = Injection(at_call=function, nth_call=3, signals=(KILL,))
        assert bench.run(folder, bench.command("plain"), fault).code == -KILL

    return bench.state("unfinished two blocks of three", make)


VERSIONS: dict[str, Callable[[Bench], None]] = {
    "an older record, finished": lambda bench: _older_record(bench, finished=True),
    "an older record, unfinished": lambda bench: _older_record(bench, finished=False),
    "a newer record, finished": lambda bench: _newer_record(bench, finished=True),
    "a newer record, finished, force=true": lambda bench: _newer_record(
        bench, finished=True, forced=True
    ),
    "a newer record, unfinished": lambda bench: _newer_record(bench, finished=False),
    "a newer manifest, finished": lambda bench: _newer_manifest(bench, finished=True),
    "a newer manifest, unfinished": lambda bench: _newer_manifest(bench, finished=False),
}
assert set(SCENARIOS) >= {"plain", "added", "forced"}
