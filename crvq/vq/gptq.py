"""Columns quantized in turn, each one's error compensated by the columns still to come.

(GPTQ, arXiv 2210.17323, section 3 and algorithm 1; d columns at a time in GPTVQ, arXiv 2402.15319,
algorithm 1.) A `ColumnQuantizer` decides what a column is rounded to: a uniform grid, a codebook,
signs.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BLOCK_COLUMNS = 128


class ColumnQuantizer(Protocol):
    """Rounds columns; keeps the codes that it chose."""

    @property
    def width(self) -> int:
        """d: columns rounded together."""
        ...

    @property
    def span(self) -> int:
        """Columns that share parameters (a grid, a codebook, masks); a multiple of ``width``."""
        ...

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fix the parameters of a span.

        Args:
            columns: the span.
            weight: ``(out, columns)`` as it is at the span's turn, earlier errors compensated.
        """
        ...

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Return the values ``(out, columns)`` that columns of the present span are rounded to.

        Args:
            columns: ``width`` of them, or the whole span when there is no feedback.
            weight: ``(out, columns)`` as it is now.
            metric: ``(columns, columns)``: an error e of a row costs ``e M eᵀ``.
        """
        ...


def quantize_columns(
    weight: Tensor,
    quantizer: ColumnQuantizer,
    factor: Tensor | None,
    block_columns: int = BLOCK_COLUMNS,
) -> Tensor:
    """Round a weight column by column, or (no ``factor``) span by span without feedback.

    Args:
        weight: ``(out, in)``, columns in the order in which they are quantized; the last ones may
            be fewer than the quantizer's width, if it takes them so.
        quantizer: rounds columns.
        factor: U of `Hessian.feedback_factor` for that order, or None: no error is compensated.
        block_columns: columns between updates of all later ones; changes rounding, nothing else.

    Returns:
        The rounded weight, ``(out, in)``.
    """
    # `left` is what the columns still to come should give: W, less the compensated errors.
    left, result = weight.clone(), torch.empty_like(weight)
    in_features, d = weight.shape[1], quantizer.width
    step = max(1, block_columns // d) * d
    for first in range(0, in_features, quantizer.span):
        span = slice(first, min(first + quantizer.span, in_features))
        # Grids and codebooks of a span are fitted once its earlier errors are in.
        quantizer.start(span, left[:, span])
        if factor is None:
            flat = torch.eye(span.stop - span.start, dtype=weight.dtype, device=weight.device)
            result[:, span] = quantizer.quantize(span, left[:, span], flat)
            continue
        for low in range(span.start, span.stop, step):
            _quantize_block(left, result, quantizer, factor, slice(low, min(low + step, span.stop)))
    return result


def _quantize_block(
    left: Tensor, result: Tensor, quantizer: ColumnQuantizer, factor: Tensor, block: slice
) -> None:
    """Round one block's columns; at its end, all columns after it compensate its errors at once."""
    d = quantizer.width
    errors = torch.zeros_like(left[:, block])
    for low in range(block.start, block.stop, d):
        columns = slice(low, min(low + d, block.stop))
        # U_cc, the factor's block of the columns that are rounded together. An error e costs
        # ‖e U_cc⁻¹‖² once the later columns have compensated it: for d=1 that is e² / U_jj².
        own = factor[columns, columns]
        identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
        inverse = torch.linalg.solve_triangular(own, identity, upper=True)
        value = quantizer.quantize(columns, left[:, columns], inverse @ inverse.T)
        result[:, columns] = value
        # GPTQ's update: later columns move by -e U_cc⁻¹ U_c,rest, the least-squares answer.
        error = (left[:, columns] - value) @ inverse
        errors[:, low - block.start : columns.stop - block.start] = error
        rest = slice(columns.stop, block.stop)
        left[:, rest] -= error @ factor[columns, rest]
    # The far columns are not read until the block ends: one large product, not many small ones.
    left[:, block.stop :] -= errors @ factor[block, block.stop :]
