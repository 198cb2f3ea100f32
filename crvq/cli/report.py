"""``crvq report``: one HTML page of all runs, written or served while a sweep runs."""

from __future__ import annotations

import argparse
import webbrowser
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from crvq.cli.reproduce import command_of
from crvq.errors import CrvqError
from crvq.files.digests import values_digest
from crvq.report.liveness import shown_status
from crvq.report.page.details import Command
from crvq.report.page.server import Page, page_server
from crvq.report.records import default_tables

_DEFAULT_NAME = "report.html"
_PORT = 8765


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or serve the page; returns the exit status.

    Args:
        arguments: after ``crvq report``; those of the command line by default.
    """
    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    page = Page(
        asked.results,
        asked.experiment,
        reference=not asked.no_reference,
        command=_remembered(command_of),
    )
    try:
        if asked.watch:
            server = page_server(page, asked.results, asked.port)
            address = f"http://{server.server_address[0]!s}:{server.server_address[1]}/"
            say(f"{address}: the runs of {asked.results}, kept up to date; Ctrl-C ends it")
            if asked.open:
                webbrowser.open(address)
            with server:
                server.serve_forever()
        out: Path = asked.out or default_tables(asked.results).parent / _DEFAULT_NAME
        runs = page.write(out)
        counts = Counter(shown_status(run, runs) for run in runs)
        say(f"{out}: {', '.join(f'{count} {status}' for status, count in counts.items())}")
        if asked.open:
            webbrowser.open(out.absolute().as_uri())
    except KeyboardInterrupt:
        return 0
    except CrvqError as error:
        say(str(error))
        return 1
    return 0


def _remembered(command: Command) -> Command:
    """Return ``command``, which looks at each configuration once: a watched page asks again."""
    known: dict[str, str | None] = {}

    def remembered(record: Mapping[str, Any]) -> str | None:
        key = values_digest(dict(record.get("config") or {}))
        if key not in known:
            known[key] = command(dict(record))
        return known[key]

    return remembered


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crvq report",
        description="One self-contained HTML page made from run records: a table of all runs, bits "
        "against perplexity, sweeps, layers, differences, failures.",
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="folder of records"
    )
    parser.add_argument(
        "--out", type=Path, help=f"file to write (default: {_DEFAULT_NAME} in that folder)"
    )
    parser.add_argument("--experiment", help="only the runs of this experiment")
    parser.add_argument(
        "--no-reference", action="store_true", help="leave out shipped records (RESULTS/reference)"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="serve the page on this machine, kept up to date while runs go on; write no file",
    )
    parser.add_argument("--port", type=int, default=_PORT, help=f"of --watch (default: {_PORT})")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser
