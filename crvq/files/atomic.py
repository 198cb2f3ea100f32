"""Files that are written whole or not at all: a temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, flush it to disk and rename it.

    A reader sees the old file or the new one, never a part; a crash leaves at most a stray
    temporary file (named ``.<name>.*.tmp``), which the next successful write does not disturb.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever json can say
    """Write ``value`` as indented JSON, whole or not at all.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems without folder handles are left as they are."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


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
