"""A device that is too small: say which keys make the run fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from crvq.config import RunConfig
from crvq.errors import QuantizationError

Stage = Literal["block", "end_to_end"]


@contextmanager
def memory_advice(config: RunConfig, stage: Stage, device: torch.device) -> Iterator[None]:
    """Turn a device's out-of-memory error into one that names what to set.

    Args:
        config: the run's.
        stage: ``block`` for the walk over the blocks, ``end_to_end`` for distillation.
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
        others = "" if device.type == "cpu" else ", or device=cpu"
        raise QuantizationError(
            f"out of memory ({said}); what lies on disk is kept. Give the same command with "
            f"{_smaller(config, stage)}{others}"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """A GPU's allocator has an error of its own; the CPU's is told by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _divisor_below(number: int) -> int:
    """The largest proper divisor: batches are made of whole parts."""
    return next(part for part in range(number // 2, 0, -1) if number % part == 0)


def _smaller(config: RunConfig, stage: Stage) -> str:
    tuned = config.finetune.end_to_end
    if stage == "end_to_end" and tuned is not None:
        if tuned.microbatch > 1:
            return f"finetune.end_to_end.microbatch={_divisor_below(tuned.microbatch)}"
        if not tuned.gradient_checkpointing:
            return "finetune.end_to_end.gradient_checkpointing=true"
        return f"finetune.end_to_end.length={(tuned.length or config.calibration.length) // 2}"
    if config.calibration.batch_size > 1:
        return f"calibration.batch_size={_divisor_below(config.calibration.batch_size)}"
    return f"calibration.length={config.calibration.length // 2}"
