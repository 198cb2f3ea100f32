"""The local files that a run was made from: noticed when they change under the same path.

A run's identity holds paths, not contents. A finished run is therefore only reused, or added to,
if the files behind its paths are those that it read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.files.digests import file_digest
from crvq.tracking.record_schema import Record


def input_files(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Describe the local model and texts of a run, by configuration key.

    Returns:
        ``{"path", "size", "modified", "sha256"}`` of each; a folder's are over all of its files.
    """
    return {key: _described(Path(path).expanduser()) for key, path in _paths(config).items()}


def check_unchanged(record: Record, asked: RunConfig) -> None:
    """Refuse a finished run whose input files are no longer what they were.

    Files of the same size and time are taken to be the same; others are read.

    Args:
        record: of the finished run.
        asked: the configuration of the command, whose paths name the same files.

    Raises:
        ConfigError: a file has another content now.
    """
    for key, path in _paths(asked).items():
        known = record.inputs.get(key)
        if known is None or known["path"] != str(path):
            continue
        place = Path(path).expanduser()
        if not place.exists() or _stamp(place) == (known["size"], known["modified"]):
            continue
        if _digest(place) != known["sha256"]:
            raise ConfigError(
                f"{key}={path} has changed since the run {record.run_id} was made from it, so that "
                "run is another one's result; set force=true to compute it again (the present "
                "result is kept), or give the changed file another path"
            )


def _paths(config: RunConfig) -> dict[str, str]:
    """Return all local paths that a run reads, by key."""
    found = {"model.path": config.model.path if config.model.source == "path" else None}
    found["calibration.path"] = config.calibration.path
    for name, dataset in config.eval.perplexity.items():
        found[f"eval.perplexity.{name}.path"] = dataset.path
    return {key: path for key, path in found.items() if path is not None}


def _described(path: Path) -> dict[str, Any]:
    size, modified = _stamp(path)
    return {"path": str(path), "size": size, "modified": modified, "sha256": _digest(path)}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _stamp(path: Path) -> tuple[int, int]:
    """Return total bytes and the latest change, in nanoseconds."""
    found = [file.stat() for file in _files(path)]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def _digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    summed = hashlib.sha256()
    for file in _files(path):
        summed.update(f"{file.relative_to(path)}\0{file_digest(file)}\n".encode())
    return summed.hexdigest()
