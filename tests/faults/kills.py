"""SIGKILL at random moments and at file operations, stop signals in every stage, requeues."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.faults.bench import (
    SCENARIOS,
    SIGNALS,
    STOP_SECONDS,
    Bench,
    assert_kept,
    assert_stopped,
    run_folder,
)
from tests.faults.fault import Fault
from tests.faults.inject import KILL, TERM, Injection

RANDOM_EACH = 11
"""SIGKILLs at random moments, for each scenario."""
PLACES_EACH = 16
"""File operations at which a scenario is killed, at most."""
REQUEUES = 12
STAGES = {
    # name: scenario, function at whose start the signal comes, which call of it
    "loading": ("plain", "crvq.pipeline.context:load_model", 1),
    "full-precision evaluation": ("plain", "crvq.pipeline.evaluate:Evaluation.full_precision", 1),
    "teacher": ("block_e2e", "crvq.finetune.teacher:Teacher.learn", 3),
    "survey": ("model_scope", "crvq.pipeline.blockwise:BlockwiseQuantizer.prepare", 1),
    "calibration": ("plain", "crvq.pipeline.blockwise:BlockwiseQuantizer.block_inputs", 2),
    "quantization": ("plain", "crvq.methods.crvq:CrvqMethod._quantize_linear", 9),
    "block fine-tuning": ("block", "crvq.pipeline.finetuning:BlockTuner.tune", 2),
    "end-to-end fine-tuning": ("block_e2e", "crvq.finetune.end_to_end:Distillation.loss", 7),
    "storing the trained model": ("block_e2e", "crvq.pipeline.finetuning:store_trained", 1),
    "final evaluation": ("plain", "crvq.pipeline.evaluate:Evaluation.quantized", 1),
    "forced: quantization": ("forced", "crvq.methods.crvq:CrvqMethod._quantize_linear", 9),
    "added evaluation: loading": ("added", "crvq.pipeline.context:load_model", 1),
    "added evaluation: measuring": ("added", "crvq.pipeline.evaluate:Evaluation.quantized", 1),
}


def faults(seed: int) -> Iterator[Fault]:
    """All faults of this file."""
    draw = random.Random(seed)
    for scenario in SCENARIOS:
        for number in range(RANDOM_EACH):
            shares = [draw.random() for _ in range(1 + number % 3 // 2)]
            yield Fault(
                "SIGKILL at a random moment",
                f"{scenario}, at {' and '.join(f'{share:.1%}' for share in shares)} of its time",
                lambda bench, s=scenario, at=tuple(shares): _killed_at_times(bench, s, at),
                short=number == 0 and scenario in ("block_e2e", "forced"),
            )
    for scenario in SCENARIOS:
        for number in range(PLACES_EACH):
            yield Fault(
                "SIGKILL at a file operation",
                f"{scenario}, operation {number + 1} of {PLACES_EACH}",
                lambda bench, s=scenario, n=number: _killed_at_place(bench, s, n),
                # The last operations of a forced run are those that swap the results.
                short=(scenario, number) in (("plain", 8), ("block_e2e", 11), ("forced", 14)),
            )
    for name in SIGNALS:
        for stage in STAGES:
            yield Fault(
                f"{name} in a stage",
                stage,
                lambda bench, g=stage, n=name: _stopped_in_stage(bench, g, n),
                short=name == "SIGTERM"
                and stage in ("loading", "quantization", "end-to-end fine-tuning"),
            )
        for number in range(6):
            share = draw.random()
            scenario = list(SCENARIOS)[number]
            yield Fault(
                f"{name} at a random moment",
                f"{scenario}, at {share:.1%} of its time",
                lambda bench, s=scenario, at=share, n=name: _stopped_at_time(bench, s, at, n),
            )
    for number in range(REQUEUES):
        scenario, share = list(SCENARIOS)[number % len(SCENARIOS)], draw.random()
        yield Fault(
            "requeue in the middle of a write",
            f"{scenario}, SIGTERM and SIGKILL 0.2 s later ({number + 1})",
            lambda bench, s=scenario, at=share: _requeued(bench, s, at),
            short=number == 0,
        )


def places(bench: Bench, scenario: str, count: int) -> list[int]:
    """Numbers of the file operations to fail at: each kind on each file, spread over the run."""
    seen: dict[tuple[str, str], list[int]] = {}
    operations = bench.boundaries(scenario)
    for number, (kind, path) in enumerate(operations, 1):
        name = re.sub(r"\.[a-z0-9_]{8}\.tmp$", ".tmp", path.rpartition("/")[2])
        seen.setdefault((kind, re.sub(r"\d{3,}", "N", name)), []).append(number)
    chosen = {numbers[len(numbers) // 2] for numbers in seen.values()}
    chosen |= {numbers[-1] for numbers in seen.values()}
    ordered = sorted(chosen)
    if len(ordered) <= count:
        return ordered
    spread = {ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)}
    return sorted(spread)


def _killed_at_times(bench: Bench, scenario: str, shares: tuple[float, ...]) -> None:
    seconds = bench.seconds(scenario)
    case = bench.case_from(bench.before(scenario))
    for share in shares:
        bench.run(case, bench.command(scenario), after=share * seconds, signals=(KILL,))
        check_kept(bench, scenario, case)
    bench.finishes(case, scenario)


def _killed_at_place(bench: Bench, scenario: str, number: int) -> None:
    chosen = places(bench, scenario, PLACES_EACH)
    at = chosen[min(number, len(chosen) - 1)]
    case = bench.case_from(bench.before(scenario))
    fault = Injection(at_write=at, signals=(KILL,))
    ended = bench.run(case, bench.command(scenario), fault)
    assert ended.code == -KILL, f"exit {ended.code}: {ended.said[-1000:]}"
    check_kept(bench, scenario, case)
    bench.finishes(case, scenario)


def _stopped_in_stage(bench: Bench, stage: str, name: str) -> None:
    scenario, function, nth = STAGES[stage]
    case = bench.case_from(bench.before(scenario))
    number = SIGNALS[name]
    fault = Injection(at_call=function, nth_call=nth, signals=(number,))
    ended = bench.run(case, bench.command(scenario), fault)
    _check_stopped(bench, scenario, case, ended, number, opened=stage != "loading")
    bench.finishes(case, scenario)


def _stopped_at_time(bench: Bench, scenario: str, share: float, name: str) -> None:
    number = SIGNALS[name]
    case = bench.case_from(bench.before(scenario))
    seconds = share * bench.seconds(scenario)
    ended = bench.run(case, bench.command(scenario), after=seconds, signals=(number,))
    assert ended.code is not None, "it hangs"
    assert ended.seconds < seconds + STOP_SECONDS, f"it took {ended.seconds - seconds:.1f} s"
    if ended.code != 0:  # not over before the signal came
        _check_stopped(bench, scenario, case, ended, number, opened=None)
    bench.finishes(case, scenario)


def _requeued(bench: Bench, scenario: str, share: float) -> None:
    operations = len(bench.boundaries(scenario))
    case = bench.case_from(bench.before(scenario))
    fault = Injection(at_write=1 + int(share * (operations - 1)), signals=(TERM, KILL))
    ended = bench.run(case, bench.command(scenario), fault)
    assert ended.code in (128 + TERM, -KILL, 0), f"exit {ended.code}: {ended.said[-1000:]}"
    check_kept(bench, scenario, case)
    bench.finishes(case, scenario)


def _check_stopped(bench, scenario, case, ended, number, opened) -> None:
    limit = STOP_SECONDS + bench.seconds(scenario) * 3
    assert ended.seconds < limit, f"it took {ended.seconds:.1f} s of {limit:.1f}"
    assert_stopped(ended, number)
    check_kept(bench, scenario, case)
    records = [
        json.loads(path.read_text())
        for path in case.glob("results/default/**/record.json")
        if ".superseded" not in path.parts
    ]
    attempts = [one for one in records if one["status"] != "complete"]
    assert all(one["status"] == "stopped" for one in attempts), [one["status"] for one in attempts]
    if opened is False and SCENARIOS[scenario][1] is None:
        assert not records, "a record was opened before the model was loaded"
    if opened and scenario != "added":
        assert attempts, "no record says that the run was stopped"


def check_kept(bench: Bench, scenario: str, case: Path) -> None:
    """A finished run that was there before the fault is not lost."""
    if SCENARIOS[scenario][1] is not None:
        assert_kept(case, run_folder(case).name, bench.honest("plain"))
