"""``python -m crvq.report.tables results``: all tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crvq.errors import CrvqError
from crvq.files.atomic import write_text
from crvq.report.claims import EVIDENCE_FILE, evidence_page
from crvq.report.finished_runs import older_note
from crvq.report.records import REFERENCE, default_tables, run_folders
from crvq.report.table_files import write_tables
from crvq.report.tables.all_tables import all_tables, load_data
from crvq.tracking.record_schema import RECORD_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables; returns the exit status.

    Args:
        arguments: of the command line by default.
    """
    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    results: Path = asked.results / REFERENCE if asked.reference else asked.results
    out: Path = asked.out or (results / "tables" if asked.reference else default_tables(results))
    wrong = _why_not(results)
    if wrong:
        say(wrong)
        return 1
    try:
        data = load_data(results, reference=not asked.no_reference)
        if data.runs.empty:
            say(_none_finished(results))
            return 1
        tables = all_tables(data)
        write_tables(tables, out)
        claims = next(table for table in tables if table.name == "claims")
        write_text(out / EVIDENCE_FILE, evidence_page(claims))
    except CrvqError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"The tables cannot be written to {out}: {error.strerror or error}")
        return 1
    for table in tables:
        rows = f"{len(table.frame)} rows" if len(table.frame) else table.missing()
        say(f"{out / table.name}: {rows}")
    for line in older_note(data.older):
        say(line)
    return 0


def _why_not(results: Path) -> str | None:
    """Return what is wrong with a folder that tables cannot be made from."""
    if not results.is_dir():
        return f"{results} is no folder; give the one that runs leave their records in (results)"
    if next(run_folders(results), None) is not None:
        return None
    # Those who give a folder too deep mean the one that holds all experiments.
    for depth, what in enumerate(("run's", "experiment's")):
        if next(results.glob("*/" * depth + RECORD_FILE), None) is not None:
            folder = results.resolve().parents[1 - depth]
            return f"{results} is one {what} folder; give the one of all experiments: {folder}"
    return f"There are no run records below {results}; nothing was written."


def _none_finished(results: Path) -> str:
    count = len(list(run_folders(results)))
    return (
        f"None of the {count} runs below {results} is complete; nothing was written. What became "
        f"of them: `python -m crvq.report {results}`."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crvq.report.tables",
        description="All tables that run records fill, as Markdown, LaTeX (booktabs) and CSV.",
    )
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="folder of the experiments"
    )
    parser.add_argument("--out", type=Path, help="folder of the tables; RESULTS/tables by default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--no-reference",
        action="store_true",
        help="leave out shipped records",
    )
    which.add_argument(
        "--reference",
        action="store_true",
        help="only the shipped records; writes the committed tables in RESULTS/reference/tables",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
