"""``python -m crvq.report.tables results``: all tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crvq.errors import CrvqError
from crvq.report.published import PUBLISHED_FILE, read_published
from crvq.report.records import load_layers
from crvq.report.table_files import write_tables
from crvq.report.tables.all_tables import all_tables, load_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables; returns the exit status.

    Args:
        arguments: of the command line by default.
    """
    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    results: Path = asked.results
    out: Path = asked.out or results / "tables"
    if not results.is_dir():
        say(f"{results} is no folder; give the one that runs leave their records in (results)")
        return 1
    published_file = results / PUBLISHED_FILE
    try:
        published = read_published(published_file) if published_file.exists() else None
        tables = all_tables(load_runs(results), load_layers(results), published)
    except CrvqError as error:
        say(str(error))
        return 1
    write_tables(tables, out)
    for table in tables:
        rows = f"{len(table.frame)} rows" if len(table.frame) else table.missing()
        say(f"{out / table.name}: {rows}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crvq.report.tables",
        description="All tables that run records fill, as Markdown, LaTeX (booktabs) and CSV.",
    )
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="folder of the experiments"
    )
    parser.add_argument("--out", type=Path, help="folder of the tables; RESULTS/tables by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
