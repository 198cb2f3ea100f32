"""What is printed when a run or a sweep is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crvq.report.agreement_table import agreement_table
from crvq.report.closing_table import closing_table
from crvq.report.generation_table import generation_table
from crvq.report.identical_jobs import identical_jobs
from crvq.report.kv_cache_table import kv_cache_table
from crvq.report.records import REFERENCE
from crvq.report.run_labels import Record
from crvq.report.speed_table import speed_table
from crvq.report.where_next import run_folder, where_next
from crvq.report.zero_shot_table import zero_shot_table


def print_closing(
    records: Sequence[Record], console: Console | None = None, asked: Record | None = None
) -> None:
    """Print the closing table, which jobs came out identical, where records lie, what is next.

    Args:
        records: one run's record, or those of all jobs of a sweep in order.
        console: stdout by default.
        asked: the run that was asked for, where the others are there for comparison.
    """
    console = console or Console()
    records = _distinct(records)
    console.print(closing_table(records))
    zero_shot = zero_shot_table(records)
    if zero_shot is not None:
        console.print(zero_shot)
    tables = (agreement_table, kv_cache_table, speed_table, generation_table)
    for further in (table(records) for table in tables):
        if further is not None:
            console.print(further)
    lines = identical_jobs(records)
    with_record = [record for record in records if "run_id" in record]
    if asked is not None:
        lines += where_next(asked)
    elif len(records) == 1:
        lines += [line for record in with_record for line in where_next(record)]
    elif with_record:
        folders = dict.fromkeys(str(run_folder(record).parent) for record in with_record)
        lines.append(f"records: {', '.join(folders)}")
        results = dict.fromkeys(str(_results(Path(folder))) for folder in folders)
        lines += [f"page:    python -m crvq.report {one} --open" for one in results]
        if len(with_record) < len(records) or any(
            record.get("status") != "complete" for record in records
        ):
            lines.append("next:    the same command again does only what is missing")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _results(experiment: Path) -> Path:
    """The results folder that an experiment's folder lies in; that of shipped records is inside."""
    place = experiment.parent
    return place.parent if place.name == REFERENCE else place


def _distinct(records: Sequence[Record]) -> list[Record]:
    """Each run once: jobs that only measure other things share one."""
    seen: dict[object, Record] = {}
    for number, record in enumerate(records):
        named = "run_id" in record
        key = (record["experiment"], record["run_id"]) if named else number
        seen.setdefault(key, record)
    return list(seen.values())
