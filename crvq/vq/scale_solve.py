"""The best row scales for given codes and codebooks: a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear
from crvq.vq.storage import to_float16


def solve_scales(linear: CodedLinear, codebooks: list[Tensor]) -> Tensor:
    """Solve ``s_o = (w_o H q_oᵀ) / (q_o H q_oᵀ)`` for each row, q being its unscaled decoded row.

    Args:
        linear: with its current codes and scales.
        codebooks: of these codes.

    Returns:
        ``(out,)``; with it, no row's loss is higher than before.
    """
    scales = linear.code.scales.clone()
    for rows in linear.row_tiles():
        decoded = linear.decode(codebooks, rows)
        decoded_h = decoded @ linear.hessian.matrix
        scales[rows] = best_scales(linear.weight[rows], decoded, decoded_h, scales[rows])
    return scales


def best_scales(
    weight: Tensor, decoded: Tensor, decoded_h: Tensor, present: Tensor, may_be_zero: bool = False
) -> Tensor:
    """Return each row's best factor of ``decoded``.

    A row whose decoded weights do nothing, or point away from w, keeps its scale: a code search
    divides by it.

    Args:
        weight: W, ``(rows, in)``.
        decoded: Q, ``(rows, in)``.
        decoded_h: ``Q H``, ``(rows, in)``.
        present: ``(rows,)``.
        may_be_zero: give rows that point away from w (rows of zeros are such) scale zero, as no
            code search follows: any positive scale would lose more than leaving the row out.
    """
    # Both need Q H only, which coordinate descent's residual is made from anyway.
    along = (decoded_h * weight).sum(1)
    length = (decoded_h * decoded).sum(1)
    # A row decoded to zeros has no length; its quotient is not used, and must not be NaN.
    best = along / length.clamp_min(torch.finfo(torch.float32).tiny)
    scales = torch.where((along > 0) & (length > 0), best, present)
    if may_be_zero:
        scales = torch.where((along <= 0) & (length > 0), 0.0, scales)
    return scales


def storable_scales(scales: Tensor) -> Tensor:
    """Return row scales as float16 holds them.

    A row of zeros, or of weights that float16 cannot reach, gets scale zero.

    Raises:
        StorageRangeError: a scale is NaN or infinite.
    """
    return to_float16(scales, "a scale")
