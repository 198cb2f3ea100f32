"""Signs with a scale and a mean per row and a factor per column, fitted under H (PTQ1.61)."""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-6
"""Of both systems, relative to their diagonals: they are singular where columns are dead."""


def fit_column_signs(
    target: Tensor,
    signs: Tensor,
    moment: Tensor,
    start: tuple[Tensor, Tensor, Tensor],
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(a, m, c)`` with less ``tr(E H Eᵀ)``, ``E = T - (diag(a) B + m 1ᵀ) diag(c)``.

    Rows and columns in turn, each the least-squares optimum with the other fixed; 2 numbers per row
    have a closed form, columns need one solve.

    Args:
        target: T H, ``(out, columns)``: what all columns of the layer are to give, as H's columns
            of these columns see it. So errors of columns that are stored otherwise are answered.
        signs: B, ``(out, columns)``, ±1.
        moment: H of these columns, ``(columns, columns)``.
        start: a ``(out,)``, m ``(out,)``, c ``(columns,)``.
        iterations: turns of both; 0 returns the start.
    """
    scales, means, columns = (part.double() for part in start)
    signs, moment, target = signs.double(), moment.double(), target.double()
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(iterations):
        # Two regressors per row: B diag(c) and c itself. Their Gram matrix under H, 2 x 2.
        scaled = signs * columns
        pulled, flat = scaled @ moment, moment @ columns
        gram = torch.stack(
            (
                torch.stack(((pulled * scaled).sum(1), scaled @ flat), 1),
                torch.stack((scaled @ flat, (columns @ flat).expand(len(signs))), 1),
            ),
            1,
        )
        found = torch.stack(((target * scaled).sum(1), target @ columns), 1)
        now = torch.stack((scales, means), 1)
        ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True).clamp_min(tiny)
        gram.diagonal(dim1=1, dim2=2).add_(ridge)
        # The ridge pulls towards the present numbers: what H does not see stays as it is.
        scales, means = torch.linalg.solve(gram, found + ridge * now).unbind(1)
        core = scales[:, None] * signs + means[:, None]
        system = (core.T @ core) * moment
        ridge = _RIDGE * system.diagonal().mean().clamp_min(tiny)
        system.diagonal().add_(ridge)
        columns = torch.linalg.solve(system, (core * target).sum(0) + ridge * columns)
    return scales.float(), means.float(), columns.float()
