"""The program: check the whole command, then hand it to Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from crvq.cli.arguments import tidy_arguments
from crvq.cli.preflight import check_command
from crvq.errors import CrvqError


def show_error(error: CrvqError) -> None:
    """Print an error for people: what was wrong, no traceback."""
    console = Console(stderr=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, highlight=False, soft_wrap=True)


def show_stop(stop: KeyboardInterrupt) -> None:
    """Print one line on how to resume a run that was asked to stop."""
    Console(stderr=True).print(
        f"{str(stop) or 'stopped'}. Completed work is kept: the same command resumes it.",
        highlight=False,
    )


def run_program(program: Callable[[], object], conf: Path, config_name: str) -> None:
    """Check the command line, then run ``program`` (a `hydra.main` function).

    Exits with 2 when the command was refused before any work, with 1 when a job failed, and with
    128 + the signal's number when it was stopped by one.
    """
    sys.argv[1:] = tidy_arguments(sys.argv[1:])
    try:
        check_command(sys.argv[1:], conf, config_name)
    except CrvqError as error:
        show_error(error)
        sys.exit(2)
    try:
        program()
    except KeyboardInterrupt as stop:
        show_stop(stop)
        sys.exit(getattr(stop, "exit_code", 130))
