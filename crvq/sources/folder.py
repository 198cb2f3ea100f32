"""Cached folders: written whole or not at all, with digests of their files that are checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from crvq.files.digests import (
    DamagedFileError,
    file_digest,
    read_digested_json,
    write_digested_json,
)
from crvq.sources.cache import writing_cache

DIGESTS = "digests.json"
"""In every cached folder: SHA-256 by file name."""


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` fill a temporary folder next to ``path``, then rename it to ``path``.

    The folder gets a file `DIGESTS`, by which `folder_damage` later knows whether it is intact. A
    folder that already stands at ``path`` is replaced. When another process puts its own there
    at the same moment, theirs is kept: callers write equal contents under equal names.

    Raises:
        SourceError: the disk is full or the folder cannot be written.
    """
    with writing_cache(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            fresh = workplace / "fresh"
            fresh.mkdir()
            fill(fresh)
            write_digested_json(fresh / DIGESTS, _digests(fresh))
            if path.exists():
                _rename_if_there(path, workplace / "old")
            try:
                os.rename(fresh, path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


def folder_damage(path: Path) -> str | None:
    """Return what is wrong with a folder that `write_folder` wrote; None if it is intact.

    Reads every file of the folder (1.7 GB per second and core where the processor has
    instructions for SHA-256).
    """
    try:
        stored = read_digested_json(path / DIGESTS)
    except FileNotFoundError:
        return f"it has no {DIGESTS}" if path.is_dir() else "there is no such folder"
    except DamagedFileError:
        return f"its {DIGESTS} is damaged"
    try:
        found = _digests(path)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    for name in sorted(stored.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in stored:
            return f"{name} does not belong to it"
        if stored[name] != found[name]:
            return f"{name} was changed: its SHA-256 differs"
    return None


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file_digest(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / DIGESTS
    }


def _rename_if_there(path: Path, target: Path) -> None:
    """Move ``path`` out of the way unless another process already did."""
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return
