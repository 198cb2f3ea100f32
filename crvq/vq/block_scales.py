"""Scales for short blocks of a row, 4 bits each, evenly spaced in logarithm."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_BITS = 4
_LEVELS = 2**SCALE_BITS - 1
LARGEST_LOGARITHM = 16.0
"""To base 2, of any scale; larger weights are left to the codebook."""
# Blocks smaller than the largest by more than this (in powers of two) count as this small.
_RANGE = 15.0


def fit_block_scales(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return a scale near ``max |w|`` for each block (GPTVQ, arXiv 2402.15319, section 3.2).

    Args:
        weight: ``(out, columns)``.
        block: columns of a block; the last may be narrower.

    Returns:
        Codes ``(out, blocks)``, int64, and ``(2,)``: the least logarithm to base 2 and the step
        between codes, float32 that float16 holds. See `block_scales`.
    """
    padding = -weight.shape[1] % block
    padded = torch.nn.functional.pad(weight.abs(), (0, padding))
    largest = padded.view(len(weight), -1, block).amax(2)
    logs = largest.clamp_min(torch.finfo(torch.float32).tiny).log2().clamp(-24, 15)
    # A block of zeros must not have its own small scale, which would make all steps coarse.
    live = logs[largest > 0]
    least = live.min() if len(live) else logs.max()
    logs = logs.clamp_min(torch.maximum(least, logs.max() - _RANGE))
    span = torch.stack([logs.min(), (logs.max() - logs.min()) / _LEVELS]).half().float()
    step = torch.where(span[1] > 0, span[1], 1.0)
    codes = ((logs - span[0]) / step).round().long().clamp(0, _LEVELS)
    return codes, span


def block_scales(codes: Tensor, span: Tensor, block: int, columns: int) -> Tensor:
    """Return the scale of each weight, ``(out, columns)``."""
    return (span[0] + span[1] * codes).exp2().repeat_interleave(block, 1)[:, :columns]
