"""``python -m crvq.report results``: the dashboard of all runs, as one HTML file."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crvq.errors import CrvqError
from crvq.report.dashboard import watch_dashboard, write_dashboard
from crvq.report.dashboard.liveness import shown_status
from crvq.report.dashboard.runs import Run
from crvq.report.records import default_tables, run_folders

_DEFAULT_NAME = "report.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the dashboard; returns the exit status.

    Args:
        arguments: of the command line by default.
    """
    asked = _parser().parse_args(arguments)
    out: Path = asked.out or default_tables(asked.results).parent / _DEFAULT_NAME
    shipped = not asked.no_reference
    console = Console(stderr=True)

    def say(runs: list[Run]) -> None:
        counts = Counter(shown_status(run, runs) for run in runs)
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        console.print(f"{out}: {listed}", markup=False, highlight=False, soft_wrap=True)
        if asked.open:
            asked.open = False
            webbrowser.open(out.absolute().as_uri())

    try:
        if asked.watch is None:
            say(write_dashboard(asked.results, out, asked.experiment, reference=shipped))
        else:
            note = _watch_note(asked.results, asked.experiment, shipped)
            console.print(note, markup=False, highlight=False, soft_wrap=True)
            watch_dashboard(
                asked.results, out, asked.experiment, asked.watch, say, reference=shipped
            )
    except KeyboardInterrupt:
        return 0
    except CrvqError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def _watch_note(results: Path, experiment: str | None, reference: bool) -> str:
    """Return what is being waited for: silence would look as if the page were there."""
    end = "Ctrl-C ends it"
    if any(run_folders(results, experiment, reference=reference)):
        return f"watching {results}; {end}"
    kind = "run" if experiment is None else f"run of the experiment {experiment!r}"
    seen = "holds no" if results.is_dir() else "does not exist, so there is no"
    return f"{results} {seen} {kind} yet: waiting for the first; {end}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crvq.report",
        description="One self-contained HTML page made from run records: sweep curves, bits "
        "against perplexity, layers, a table of all runs, differences, failures.",
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
        nargs="?",
        type=_seconds,
        const=5.0,
        metavar="SECONDS",
        help="write the page again whenever a record changes; looks every 5 seconds by default",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds; the folder of results comes first: "
            f"`python -m crvq.report {text} --watch`"
        ) from None
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 3600 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
