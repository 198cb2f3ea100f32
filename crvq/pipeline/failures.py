"""What ends a run early: full or read-only disks, and devices without enough memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from crvq.config import RunConfig
from crvq.config.finetune import check_finetune
from crvq.errors import ConfigError, CrvqError, QuantizationError
from crvq.tracking.run_id import run_id

Stage = Literal["block", "end_to_end"]

_STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


class StorageError(CrvqError):
    """A file of the run cannot be written."""


@contextmanager
def storage_advice(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into one line that says what is kept.

    Args:
        folder: the run's.

    Raises:
        StorageError: a file could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = _STORAGE_ERRORS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(
            f"{reason}: {error.filename or folder} could not be written. Completed blocks in "
            f"{folder} are kept; make room or set results_dir and cache_dir to writable folders, "
            "and run the same command again: it resumes"
        ) from error


def check_writable(folder: Path, key: str) -> None:
    """Refuse a folder that cannot be written, before anything is created in it.

    Raises:
        ConfigError: names the key and the folder.
    """
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"{key}={folder}: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{key}={folder}: {existing} is not writable; set {key} to a folder that is"
        )


@contextmanager
def memory_advice(config: RunConfig, stage: Stage, device: torch.device) -> Iterator[None]:
    """Turn a device's out-of-memory error into one that names what to set.

    Args:
        config: the run's.
        stage: ``block`` for quantization block by block, ``end_to_end`` for distillation.
        device: that it runs on.

    Raises:
        QuantizationError: the device ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        said = str(error).partition(".")[0]
        raise QuantizationError(
            f"out of memory on {device} ({said}). {_advice(config, stage, device)}"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """GPU allocators raise an error of their own; the CPU's is known by its message."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _advice(config: RunConfig, stage: Stage, device: torch.device) -> str:
    """Compose the advice from configurations that were checked, not from hopes."""
    smaller = [one for one in _candidates(config, stage) if _is_valid(_changed(config, one))]
    if device.type != "cpu":
        smaller.append({"device": "cpu"})
    if not smaller:
        return "Nothing in the configuration makes this run smaller: use a machine with more memory"
    resuming = [one for one in smaller if run_id(_changed(config, one)) == run_id(config)]
    chosen = (resuming or smaller)[0]
    text = " ".join(f"{key}={str(value).lower()}" for key, value in chosen.items())
    if resuming:
        return f"Run the same command with {text}: it resumes from the last completed block"
    return (
        f"Run the same command with {text}: that is another run, which starts over (its result "
        "differs); what this one completed is kept"
    )


def _candidates(config: RunConfig, stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield settings that need less memory, the mildest first."""
    tuned = config.finetune.end_to_end
    if stage == "end_to_end" and tuned is not None:
        if tuned.microbatch > 1:
            yield {"finetune.end_to_end.microbatch": _divisor_below(tuned.microbatch)}
        if not tuned.gradient_checkpointing:
            yield {"finetune.end_to_end.gradient_checkpointing": True}
        length = tuned.length or config.calibration.length
        yield {"finetune.end_to_end.length": length // 2}
        return
    if config.calibration.batch_size > 1:
        yield {"calibration.batch_size": _divisor_below(config.calibration.batch_size)}
    length = config.calibration.length // 2
    yield {"calibration.length": length}
    if tuned is not None and (tuned.length or 0) > length:
        yield {"calibration.length": length, "finetune.end_to_end.length": length}


def _divisor_below(number: int) -> int:
    """Return the largest proper divisor: batches are made of whole parts."""
    return next(part for part in range(number // 2, 0, -1) if number % part == 0)


def _changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """Return the configuration with dotted keys set, not validated yet."""
    for key, value in changes.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, path: list[str], value: object) -> Any:  # noqa: ANN401
    inner = value if len(path) == 1 else _with(getattr(section, path[0]), path[1:], value)
    return section.model_copy(update={path[0]: inner})


def _is_valid(config: RunConfig) -> bool:
    """Return whether a command with this configuration would be accepted."""
    values = {**config.model_dump(), "method_params": config.method_params}
    try:
        checked = RunConfig.model_validate(values)
        check_finetune(checked.finetune, checked.calibration)
    except (ValidationError, ConfigError):
        return False
    return True
