"""The best row scales for given codes and codebooks: a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.coded_linear import CodedLinear


def solve_scales(linear: CodedLinear, codebooks: list[Tensor], may_be_zero: bool = False) -> Tensor:
    """Solve ``s_o = (w_o H q_oᵀ) / (q_o H q_oᵀ)`` for each row, q being its unscaled decoded row.

    A row whose decoded weights do nothing, or point away from w, keeps its scale: a code search
    divides by it.

    Args:
        linear: with its current codes and scales.
        codebooks: of these codes.
        may_be_zero: give rows that point away from w (rows of zeros are such) scale zero, as no
            code search follows: any positive scale would lose more than leaving the row out.

    Returns:
        ``(out,)``; with it, no row's loss is higher than before.
    """
    scales = linear.code.scales.clone()
    for rows in linear.row_tiles():
        decoded = linear.decode(codebooks, rows)
        pushed = decoded @ linear.curvature.matrix
        along = (pushed * linear.weight[rows]).sum(1)
        length = (pushed * decoded).sum(1)
        best = along / length.clamp_min(torch.finfo(torch.float32).tiny)
        scales[rows] = torch.where((along > 0) & (length > 0), best, scales[rows])
        if may_be_zero:
            scales[rows] = torch.where((along <= 0) & (length > 0), 0.0, scales[rows])
    return scales
