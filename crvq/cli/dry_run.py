"""``--dry-run``: what a command would run, and what it would take on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crvq.cli.plan import MOST_CHECKED, Plan
from crvq.config import RunConfig
from crvq.pipeline.estimate import Estimate, estimate, free_disk
from crvq.pipeline.run_folder import run_folder
from crvq.tracking.record import RunRecord

_GIB = 2**30


def show_plan(plan: Plan, configs: Sequence[RunConfig], labels: Sequence[str]) -> None:
    """Print an estimate for every job of a command; runs and writes nothing.

    Args:
        plan: of the command.
        configs: typed, of the jobs that are known beforehand.
        labels: what sets each job apart.

    Raises:
        CrvqError: a job that would be refused once the model's shapes are known.
    """
    console = Console()
    table = Table(title="what would be run", title_justify="left")
    for name in ("job", "run", "bits", "blocks", "memory", "time"):
        table.add_column(name, justify="left" if name in ("job", "run") else "right")
    total = 0.0
    found = []
    for number, config in enumerate(configs):
        one = estimate(config)
        found.append(one)
        done = RunRecord.is_complete(run_folder(config))
        seconds = 0.0 if done else sum(one.seconds.values())
        total += seconds
        bits = one.bits_per_weight
        table.add_row(
            labels[number] if number < len(labels) and labels[number] else str(number + 1),
            f"{config.method} of {config.model.name}",
            "?" if bits is None else f"{bits:.3f}",
            "?" if one.disk is None else _size(one.disk),
            _size(sum(one.memory.values())),
            "done" if done else _time(seconds),
        )
    if len(found) == 1:
        _details(console, configs[0], found[0])
    else:
        console.print(table)
    if plan.total is None:
        console.print("A search chooses its jobs one after the other; this is the first of them.")
    elif plan.total > len(configs):
        console.print(f"The first {MOST_CHECKED} of {plan.total} jobs are shown.")
    if len(found) > 1:
        console.print(f"All {len(found)} jobs, one after another: {_time(total)}.")
    free = free_disk(configs[0].results_dir)
    need = sum(one.disk or 0 for one in found)
    note = "" if need < free else ", which is NOT ENOUGH"
    console.print(
        f"{Path(configs[0].results_dir).absolute()} would take {_size(need)}; {_size(free)} is "
        f"free{note}. Nothing was run.",
        soft_wrap=True,
    )


def _details(console: Console, config: RunConfig, found: Estimate) -> None:
    console.print(
        f"{config.method} of {found.model}: {found.weights:,} weights in linear layers, of "
        f"{found.all_weights:,}",
        highlight=False,
        soft_wrap=True,
    )
    if found.fitted:
        chosen = ", ".join(f"{name}={value}" for name, value in found.fitted.items())
        console.print(f"the budget leads to {chosen}", highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(justify="left")
    if found.bits is not None:
        table.add_row("bits per weight", f"{found.bits_per_weight:.3f}", "")
        for part, bits in found.bits.as_dict().items():
            if bits:
                table.add_row(f"  {part}", f"{bits / found.weights:.4f}", "")
        table.add_row("packed blocks", _size(found.disk or 0), "")
    memory = sum(found.memory.values())
    fits = "" if memory < found.free else f", NOT ENOUGH: {_size(found.free)} is free"
    where = f"  placement={found.placement}{fits}"
    table.add_row(f"memory on {found.device}", _size(memory), where)
    for part, size in found.memory.items():
        table.add_row(f"  {part}", _size(size), "")
    table.add_row("time on this machine", _time(sum(found.seconds.values())), "")
    for stage, seconds in found.seconds.items():
        table.add_row(f"  {stage}", _time(seconds), "")
    console.print(table)


def _size(count: float) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
