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
        pushed = decoded @ linear.curvature.matrix
        along = (pushed * linear.weight[rows]).sum(1)
        length = (pushed * decoded).sum(1)
        best = along / length.clamp_min(torch.finfo(torch.float32).tiny)
        scales[rows] = torch.where((along > 0) & (length > 0), best, scales[rows])
    return scales
