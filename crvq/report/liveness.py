"""How far a run that is not over has come, and whether anybody still works on it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from crvq.report.runs import WATCHED_FILES, Run

_SILENCE = 3600.0
"""Seconds without a change to any file after which a run of another host is taken to be dead."""

_CLOCKS_DIFFER = 60.0
"""Seconds by which the system's time of a process's birth may be off."""


def progress(run: Run, runs: Sequence[Run], now: datetime | None = None) -> dict[str, Any]:
    """Progress of a run whose status is ``running`` or ``stopped``.

    Whether its process lives is looked up on the host that wrote the record; from elsewhere,
    silence has to do.

    Args:
        run: as its files are now.
        runs: all runs: a finished one of the same model shows how many blocks there are, where
            the record does not.
        now: the present by default.

    Returns:
        ``blocks_done``, ``blocks`` (None if unknown), ``stage`` (None if unknown),
        ``elapsed`` and ``silent``: seconds since the last attempt began and since the last
        change on disk; ``alive``: False if the process is gone or has long been silent.
    """
    now = now or datetime.now(UTC)
    stage = run.record.get("stage") or {}
    attempts = run.record.get("attempts") or []
    began = (attempts[-1] if attempts else run.record).get("started")
    silent = now.timestamp() - _last_change(run.folder)
    return {
        "blocks_done": _blocks_done(run),
        "blocks": _blocks(run, runs),
        "stage": stage.get("name"),
        "elapsed": _seconds_since(began, now),
        "silent": max(silent, 0.0),
        "alive": run.status == "running" and _is_alive(attempts[-1] if attempts else {}, silent),
    }


def shown_status(run: Run, runs: Sequence[Run]) -> str:
    """Return the run's status, where a run without a living process is ``stopped``."""
    if run.status == "running" and not progress(run, runs)["alive"]:
        return "stopped"
    return run.status


def _blocks_done(run: Run) -> int:
    return int(run.layers["block"].nunique()) if "block" in run.layers else 0


def _blocks(run: Run, runs: Sequence[Run]) -> int | None:
    stage = run.record.get("stage") or {}
    if stage.get("name") == "quantize" and stage.get("total"):
        return int(stage["total"])
    model = run.record.get("model")
    known = (
        _blocks_done(other)
        for other in runs
        if other.status == "complete" and other.record.get("model") == model
    )
    return max(known, default=0) or None


def _last_change(folder: Path) -> float:
    times = [(folder / name).stat().st_mtime for name in WATCHED_FILES if (folder / name).exists()]
    return max(times, default=0.0)


def _is_alive(attempt: dict[str, Any], silent: float) -> bool:
    pid = attempt.get("pid")
    if not isinstance(pid, int) or attempt.get("host") != socket.gethostname():
        return silent < _SILENCE
    try:
        born = datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)
    except psutil.Error:
        return False
    # Process ids are reused: a process that is younger than the attempt is another one.
    age = _seconds_since(attempt.get("started"), born)
    return age is None or age <= _CLOCKS_DIFFER


def _seconds_since(time: object, now: datetime) -> float | None:
    try:
        then = datetime.fromisoformat(str(time))
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max((now - then).total_seconds(), 0.0)
