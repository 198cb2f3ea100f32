"""Folders of runs, the attempts next to them, and the local files that a run was made from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.files.atomic import move_aside
from crvq.files.digests import file_digest
from crvq.methods import method_names, method_params
from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import RECORD_FILE, Record, RecordError, load_record
from crvq.tracking.run_id import run_id

CHECKPOINT = "checkpoint"
"""Folder of a run's packed blocks."""
BEFORE_END_TO_END = "checkpoint_before_end_to_end"
"""Folder of the blocks as they were before the model was trained as a whole."""
STATE_FILE = "finetune_state.safetensors"
"""Of end-to-end fine-tuning that is under way."""
ATTEMPTS = ".attempts"
"""Folder of an experiment that holds new attempts at finished runs, until they are complete."""
REPLACED = ".superseded"
"""Folder of an experiment that holds finished runs which a later attempt replaced."""
LOCKS = ".locks"
REFERENCE = "reference"
"""Folder of ``results_dir`` that holds records shipped with this repository."""


def run_folder(config: RunConfig) -> Path:
    """Return ``<results_dir>/<experiment>/<run_id>``, or the folder that ``eval_only`` names."""
    if config.eval_only is not None:
        return finished_folder(config.eval_only)
    return Path(config.results_dir) / config.experiment / run_id(config)


def lock_file(folder: Path) -> Path:
    """Return the path of the lock of the run in ``folder``."""
    return folder.parent / LOCKS / f"{folder.name}.lock"


def reference_folder(config: RunConfig) -> Path | None:
    """Return the folder of the shipped, finished run of the same identity; None without one.

    The experiment's own reference comes first, then any other.
    """
    root, name = Path(config.results_dir) / REFERENCE, run_id(config)
    found = [root / config.experiment / name, *sorted(root.glob(f"*/{name}"))]
    return next((folder for folder in found if RunRecord.is_complete(folder)), None)


def attempt_folder(folder: Path, *, force: bool = False) -> Path:
    """Return the folder in which to work on the run that belongs in ``folder``.

    It is ``folder`` itself, unless a finished run is there: then it is one next to it, which
    `publish` moves into place once it is complete. A forced run does not resume an unfinished
    attempt that was not forced, which is moved aside.
    """
    attempt = folder.parent / ATTEMPTS / folder.name
    working = attempt if RunRecord.is_complete(folder) else folder
    if force and (working / RECORD_FILE).exists() and not _is_forced(working):
        move_aside(working, folder.parent, REPLACED)
    return working


def publish(working: Path, folder: Path) -> Path | None:
    """Move a completed attempt into place.

    Args:
        working: where the attempt was made.
        folder: where it belongs.

    Returns:
        Where the finished run lies that was there before; None if there was none.
    """
    if working == folder:
        return None
    # If the process dies between the two moves, `settle` makes the second one.
    replaced = move_aside(folder, folder.parent, REPLACED) if folder.exists() else None
    os.replace(working, folder)
    return replaced


def settle(folder: Path) -> bool:
    """Finish a `publish` that was interrupted: before it, or between its two moves.

    Returns:
        Whether an attempt of ``force=true`` was put in place.
    """
    working = folder.parent / ATTEMPTS / folder.name
    if not RunRecord.is_complete(working):
        return False
    forced = _is_forced(working)
    publish(working, folder)
    return forced


def finished_folder(path: str, asked: str = "eval_only=") -> Path:
    """Return the run's folder behind what a user gives: it, its ``checkpoint/``, or its record.

    Args:
        path: what was given.
        asked: what stands before it on the command line, for the message.

    Raises:
        ConfigError: there is no record.
    """
    given = Path(path).expanduser()
    tried = (given, given.parent)
    for folder in tried:
        if (folder / RECORD_FILE).is_file():
            return folder
    raise ConfigError(
        f"{asked}{path}: there is no {RECORD_FILE} in {' or '.join(map(str, tried))}; give the "
        f"folder of a finished run, as in {asked}results/EXPERIMENT/RUN_ID"
    )


def recorded_config(record: Record) -> RunConfig:
    """Return the typed configuration of a record.

    Raises:
        ConfigError: it is not a configuration of this version.
    """
    values = dict(record.config)
    if record.method not in method_names():
        raise ConfigError(f"the record {record.run_id} is of an unknown method, {record.method}")
    try:
        params = method_params(record.method).model_validate(values.get("method_params") or {})
        return RunConfig.model_validate({**values, "method_params": params})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        )
        raise ConfigError(
            f"the configuration in the record {record.run_id} is not one of this version: {faults}"
        ) from error


def _is_forced(folder: Path) -> bool:
    """Return whether the unfinished attempt in a folder was started by ``force=true``."""
    try:
        return load_record(folder).forced
    except RecordError:
        return False


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
