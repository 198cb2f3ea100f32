"""What an error of a linear's weights costs at its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles


def output_loss(error: Tensor, second_moment: Tensor) -> float:
    """``tr(E H Eᵀ)``: the expected squared error of the outputs, summed over out features.

    Args:
        error: ``W - Ŵ``, ``(out, in)``.
        second_moment: H, ``(in, in)``.
    """
    total = torch.zeros((), dtype=torch.float64, device=error.device)
    for rows in tiles(error.shape[0], error.shape[1], error.device):
        part = error[rows]
        total += ((part @ second_moment) * part).sum(dtype=torch.float64)
    return float(total)
