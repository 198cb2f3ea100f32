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
def memory_advice(config: RunConfig, stage: Stage) -> Iterator[None]:
    """Turn a device's out-of-memory error into one that names what to set.

    Args:
        config: the run's.
        stage: ``block`` for the walk over the blocks, ``end_to_end`` for distillation.

    Raises:
        QuantizationError: the device ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        device = str(error).partition(".")[0]
        raise QuantizationError(
            f"out of memory ({device}); what lies on disk is kept. Give the same command with "
            f"{_smaller(config, stage)}, or device=cpu"
        ) from error


def _smaller(config: RunConfig, stage: Stage) -> str:
    tuned = config.finetune.end_to_end
    if stage == "end_to_end" and tuned is not None:
        if tuned.microbatch > 1:
            return f"finetune.end_to_end.microbatch={tuned.microbatch // 2}"
        if not tuned.gradient_checkpointing:
            return "finetune.end_to_end.gradient_checkpointing=true"
        return f"finetune.end_to_end.length={(tuned.length or config.calibration.length) // 2}"
    if config.calibration.batch_size > 1:
        return f"calibration.batch_size={config.calibration.batch_size // 2}"
    return f"calibration.length={config.calibration.length // 2}"
