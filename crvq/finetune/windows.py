"""Which of the drawn windows each stage sees: the first ones train, the last ones validate."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.config import CalibrationConfig
from crvq.config.finetune import FinetuneConfig


def walk_windows(windows: Tensor, config: FinetuneConfig, calibration: CalibrationConfig) -> Tensor:
    """Windows that go through the blocks, ``(n, length)``: training ones, then validation.

    Second moments come from the first ``calibration.samples`` of them.

    Args:
        windows: all that were drawn, ``(samples, length)``.
        config: the finetune group.
        calibration: the calibration group.
    """
    if config.block is None:
        return windows[: calibration.samples]
    whole, part = config.split(calibration, len(windows)), config.block_split(calibration)
    return torch.cat([windows[: part.train], windows[whole.train :][: part.validation]])


def end_to_end_windows(
    windows: Tensor, config: FinetuneConfig, calibration: CalibrationConfig
) -> tuple[Tensor, Tensor]:
    """Windows of the end-to-end stage that train and that validate, cut to its length.

    What validates here has trained no block.

    Args:
        windows: all that were drawn, ``(samples, length)``.
        config: the finetune group, ``end_to_end`` set.
        calibration: the calibration group.
    """
    assert config.end_to_end is not None
    length = config.end_to_end.length or windows.shape[1]
    pieces = windows.shape[1] // length
    train = config.split(calibration, len(windows)).train
    cut = windows[:, : pieces * length].reshape(len(windows), pieces, length)
    return cut[:train].flatten(0, 1), cut[train:].flatten(0, 1)
