"""All faults, tried one after another by some workers, and the table of what was survived."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from rich.table import Table

from tests.faults import damage, kills, others, refusals, storage
from tests.faults.bench import Bench
from tests.faults.fault import Fault, SkippedError

SEED = 13


@dataclass(frozen=True)
class Tried:
    """What became of a fault."""

    fault: Fault
    outcome: str
    """``survived``, ``skipped`` or ``failed``."""
    message: str = ""
    seconds: float = 0.0


def all_faults(seed: int = SEED) -> list[Fault]:
    """Every fault; the seed decides moments and places."""
    parts = (kills, storage, damage, others, refusals)
    return list(chain.from_iterable(part.faults(seed) for part in parts))


def try_fault(bench: Bench, fault: Fault) -> Tried:
    """Try one fault."""
    begun = time.monotonic()
    try:
        fault.check(bench)
    except SkippedError as reason:
        return Tried(fault, "skipped", str(reason))
    except AssertionError as error:
        return Tried(fault, "failed", str(error) or traceback.format_exc()[-800:])
    except Exception:
        return Tried(fault, "failed", traceback.format_exc()[-3000:])
    return Tried(fault, "survived", seconds=time.monotonic() - begun)


def try_all(
    bench: Bench,
    faults: Sequence[Fault],
    jobs: int,
    on_tried: Callable[[Tried], None],
    minutes: float = float("inf"),
) -> list[Tried]:
    """Try faults in some threads, each with a server of its own; results are in the same order.

    After so many minutes no further one is begun.
    """
    deadline = time.monotonic() + 60 * minutes
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(faults)):
        waiting.put(number)
    results: dict[int, Tried] = {}

    def work() -> None:
        while time.monotonic() < deadline:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            results[number] = try_fault(bench, faults[number])
            on_tried(results[number])

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in sorted(results)]


def rows(results: Iterable[Tried]) -> list[tuple[str, int, int, int]]:
    """Kind of fault, tried, survived, skipped; a row for the sum at the end."""
    counts: dict[str, list[int]] = {}
    for one in results:
        row = counts.setdefault(one.fault.kind, [0, 0, 0])
        row[0] += one.outcome != "skipped"
        row[1] += one.outcome == "survived"
        row[2] += one.outcome == "skipped"
    made = [(kind, *row) for kind, row in counts.items()]
    sums = [sum(row[index] for row in made) for index in (1, 2, 3)]  # type: ignore[misc]
    return [*made, ("all", *sums)]  # type: ignore[list-item]


def table(results: Iterable[Tried]) -> Table:
    """The table for a terminal."""
    made = rows(results)
    shown = Table("fault", title="Faults")
    for column in ("tried", "survived", "skipped"):
        shown.add_column(column, justify="right")
    for kind, tried, survived, skipped in made:
        style = "red" if survived < tried else ""
        shown.add_row(kind, str(tried), str(survived), str(skipped or ""), style=style)
    return shown


def markdown(results: Sequence[Tried], command: str, seconds: float) -> str:
    """The table as Markdown, with the command and what failed."""
    lines = ["# Faults", "", f"`{command}`, {seconds:.0f} s", ""]
    lines += ["| fault | tried | survived | skipped |", "|---|---:|---:|---:|"]
    lines += [f"| {kind} | {a} | {b} | {c or ''} |" for kind, a, b, c in rows(results)]
    failed = [one for one in results if one.outcome == "failed"]
    if failed:
        lines += ["", "## Not survived", ""]
        for one in failed:
            first = one.message.strip().splitlines()[-1][:300] if one.message.strip() else ""
            lines.append(f"- {one.fault.kind}: {one.fault.name}: {first}")
    return "\n".join(lines) + "\n"
