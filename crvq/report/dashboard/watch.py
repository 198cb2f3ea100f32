"""Writing the page again whenever a record changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from crvq.report.dashboard.page import write_dashboard
from crvq.report.dashboard.runs import WATCHED_FILES, NoRunsError, Run, wrong_folder
from crvq.report.records import run_folders

_MINUTE = 60.0
_SHORTEST_RELOAD = 5.0
_Stamp = dict[str, tuple[int, int]]


def watch_dashboard(
    results_dir: Path,
    out: Path,
    experiment: str | None = None,
    seconds: float = 5.0,
    on_write: Callable[[list[Run]], None] = lambda runs: None,
    rounds: int | None = None,
    *,
    reference: bool = True,
) -> None:
    """Write the page now and after every change of a record or table, until interrupted.

    A results folder without runs is waited for. Runs that are under way have the page written
    every minute even if nothing changed, so that it says how long they have been silent.

    Args:
        results_dir: as for :func:`write_dashboard`.
        out: the HTML file.
        experiment: only this one.
        seconds: between two looks at the files; the open page loads itself as often, but at
            most every 5 seconds.
        on_write: called each time the page was written.
        rounds: looks to take; without end by default.
        reference: include shipped records.

    Raises:
        NoRunsError: the folder is that of one experiment or run, and would be waited for in vain.
        PageError: the page cannot be written.
    """
    wrong = wrong_folder(results_dir)
    if wrong is not None and not any(run_folders(results_dir, reference=reference)):
        raise wrong
    before: _Stamp | None = None
    runs: list[Run] = []
    written = 0.0
    while rounds is None or rounds > 0:
        stamp = _stamp(results_dir, experiment, reference)
        under_way = any(run.status == "running" for run in runs)
        if stamp and (stamp != before or (under_way and time.monotonic() - written > _MINUTE)):
            try:
                reload = max(seconds, _SHORTEST_RELOAD)
                runs = write_dashboard(results_dir, out, experiment, reload, reference=reference)
            except NoRunsError:  # the last one was removed just now
                continue
            on_write(runs)
            before, written = stamp, time.monotonic()
        rounds = rounds and rounds - 1
        if rounds != 0:
            time.sleep(seconds)


def _stamp(results_dir: Path, experiment: str | None, reference: bool) -> _Stamp:
    """Time of change and size of every file that the page is made from."""
    stamp: _Stamp = {}
    for folder in run_folders(results_dir, experiment, reference=reference):
        for name in WATCHED_FILES:
            try:
                found = (folder / name).stat()
            except FileNotFoundError:
                continue
            stamp[f"{folder}/{name}"] = (found.st_mtime_ns, found.st_size)
    return stamp
