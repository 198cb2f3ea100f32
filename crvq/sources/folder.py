"""Folders that are written whole or not at all, also when two processes write the same one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` fill a temporary folder beside ``path``, then rename it to ``path``.

    A folder that already stands at ``path`` is replaced. When another process puts its own there
    at the same moment, theirs is kept: callers write equal contents under equal names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fresh = workplace / "fresh"
        fresh.mkdir()
        fill(fresh)
        if path.exists():
            _rename_if_there(path, workplace / "old")
        try:
            os.rename(fresh, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _rename_if_there(path: Path, target: Path) -> None:
    """Move ``path`` out of the way unless another process already did."""
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return
