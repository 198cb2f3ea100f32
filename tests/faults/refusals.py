"""Refused commands: a finished run stays as it was, and an empty folder stays empty."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.bench import Bench, assert_one_line, assert_stopped, content, run_folder
from tests.faults.fault import Fault
from tests.faults.inject import INT, TERM, Injection

LOADING = "crvq.pipeline.context:load_model"
REFUSED = {
    "missing evaluation text": ["eval.perplexity.file.path=/nowhere/heldout.txt", "force=true"],
    "missing calibration text": ["calibration.path=/nowhere/calibration.txt"],
    "missing model": ["model.path=/nowhere"],
    "context too long": ["eval.perplexity.file.context=65", "force=true"],
    "a new context too long": ["eval.perplexity.file.context=65"],
    "calibration too long": ["calibration.length=65"],
    "a key with a typo": ["calibration.sample=4"],
    "a value with a typo": ["tracking.mode=onlin"],
    "a method with a typo": ["method=crqv"],
    "a value out of range": ["crvq.codebook_bits=99", "force=true"],
    "a type that does not fit": ["seed=often"],
    "results_dir in a file": ["results_dir=/dev/null/results"],
    "no such device": ["device=cuda:99", "force=true"],
    "eval_only of nothing": ["eval_only=results/nowhere"],
}
"""What a command adds that has to be refused before any work."""
STOPPED = {"Ctrl-C while loading": INT, "SIGTERM while loading": TERM}


def faults(seed: int) -> Iterator[Fault]:
    """All faults of this file."""
    for name, extra in REFUSED.items():
        yield Fault(
            "refused command over a finished run",
            name,
            lambda bench, e=tuple(extra): _over_finished(bench, e),
            short=name in ("missing evaluation text", "missing model"),
        )
        yield Fault(
            "refused command in an empty folder",
            name,
            lambda bench, e=tuple(extra): _in_empty(bench, e),
            short=name in ("context too long", "missing model"),
        )
    for name, number in STOPPED.items():
        for scenario in ("forced", "added"):
            yield Fault(
                "refused command over a finished run",
                f"{scenario}: {name}",
                lambda bench, s=scenario, n=number: _stopped(bench, s, n),
                short=(scenario, number) == ("forced", INT),
            )
        yield Fault(
            "refused command in an empty folder",
            name,
            lambda bench, n=number: _stopped(bench, "plain", n),
        )


def _over_finished(bench: Bench, extra: tuple[str, ...]) -> None:
    case = bench.case_from(bench.finished("plain"))
    before = content(case)
    ended = bench.run(case, bench.arguments(*extra))
    assert_one_line(ended)
    _check_same(before, content(case))


def _in_empty(bench: Bench, extra: tuple[str, ...]) -> None:
    case = bench.new_case()
    ended = bench.run(case, bench.arguments(*extra))
    assert_one_line(ended)
    left = sorted(str(path.relative_to(case)) for path in case.rglob("*"))
    # The cache is a cache: what was read or converted on the way may stay there.
    left = [name for name in left if not name.startswith("cache")]
    assert not left, f"left behind: {left}"


def _stopped(bench: Bench, scenario: str, number: int) -> None:
    state = bench.before(scenario)
    case = bench.case_from(state)
    before = content(case)
    fault = Injection(at_call=LOADING, signals=(number,))
    ended = bench.run(case, bench.command(scenario), fault)
    assert_stopped(ended, number)
    _check_same(before, content(case))
    if state is not None:
        assert not (run_folder(case).parent / ".attempts").exists()


def _check_same(before: dict[str, str], after: dict[str, str]) -> None:
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    assert not changed, f"changed: {changed}"
    assert before.keys() <= after.keys(), f"gone: {sorted(before.keys() - after.keys())}"
    assert after.keys() <= before.keys(), f"left behind: {sorted(after.keys() - before.keys())}"
