"""Finished or paid-for work is never deleted: it is moved aside."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

SUPERSEDED = "superseded"
"""Folder that holds what was moved aside, inside a run's folder."""


def move_aside(path: Path, folder: Path, into: str = SUPERSEDED) -> Path:
    """Move a file or folder to ``<folder>/<into>/<name>-<time>`` and return where it lies now.

    Args:
        path: of what is moved.
        folder: that keeps it; on the same file system.
        into: the name of the folder inside.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = folder / into
    kept.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        suffix = f"-{number}" if number else ""
        target = kept / f"{path.name}-{stamp}{suffix}"
        if not target.exists():
            os.replace(path, target)
            return target
    raise FileExistsError(f"{kept} holds a thousand copies of {path.name} already")
