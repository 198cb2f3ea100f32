"""The best row scales for given codes and codebooks: a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.coded_linear import CodedLinear


def solve_scales(linear: CodedLinear, codebooks: list[Tensor]) -> Tensor:
    """``s_o = (w_o H q_oᵀ) / (q_o H q_oᵀ)`` for each row, q being its unscaled decoded row.

    A row whose decoded weights do nothing, or point away from w, keeps its scale.

    Returns:
        ``(out,)``; with it, no row's loss is higher than before.
    """
    scales = linear.code.scales.clone()
    for rows in linear.row_tiles():
        decoded = linear.decode(codebooks, rows)
        decoded_h = decoded @ linear.curvature.matrix
        scales[rows] = best_scales(linear.weight[rows], decoded, decoded_h, scales[rows])
    return scales


def best_scales(weight: Tensor, decoded: Tensor, decoded_h: Tensor, present: Tensor) -> Tensor:
    """Return each row's best factor of ``decoded``, or the present one where that does nothing.

    Args:
        weight: W, ``(rows, in)``.
        decoded: Q, ``(rows, in)``.
        decoded_h: ``Q H``, ``(rows, in)``.
        present: ``(rows,)``.
    """
    along = (decoded_h * weight).sum(1)
    length = (decoded_h * decoded).sum(1)
    best = along / length.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where((along > 0) & (length > 0), best, present)


def storable_scales(scales: Tensor) -> Tensor:
    """Scales as float16 holds them, kept off zero and infinity."""
    tiniest = torch.finfo(torch.float16).smallest_normal
    signs = torch.where(scales < 0, -1.0, 1.0)
    return (signs * scales.abs().clamp(tiniest, 65504.0)).half().float()
