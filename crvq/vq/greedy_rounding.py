"""Weights of a row rounded in greedy order, each error answered by all that are left (OBQ).

(Frantar & Alistarh, Optimal Brain Compression, arXiv 2208.11580, section 5 and algorithm 3.) H⁻¹
without the rounded weights is ``H⁻¹ - L Lᵀ``, L being the Cholesky vectors of their rows so far. So
a step needs one new vector (a product of L with one of its columns) and not a whole new matrix: the
same numbers as eliminating rows of H⁻¹, for k³/6 instead of k³/3 products that need not be written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.kernels import compiled_greedy_for, over_rows

_CLIPPED = 0.25 * (1 + 1e-4)
"""A squared error above this many squared steps: the weight has left its grid."""


def round_greedily(
    weight: Tensor, inverse: Tensor, steps: Tensor, zeros: Tensor, levels: int
) -> Tensor:
    """Return codes ``(out, in)``, int64, of grids that are fixed beforehand.

    The next weight is the one with the least ``(w - q)² / [H⁻¹]_jj``; if a weight has been pushed
    off its grid by more than half a step, the one that is farthest off (in steps) goes first.

    Args:
        weight: ``(out, in)``.
        inverse: H⁻¹, damped, ``(in, in)``.
        steps: of each weight's grid, ``(out, in)``.
        zeros: zero points, ``(out, in)``, int64.
        levels: codes run from 0 to ``levels - 1``.
    """
    compiled = compiled_greedy_for(weight.device)
    if compiled is None:
        return _round_rows(weight, inverse, steps, zeros, levels)
    codes = torch.empty(weight.shape, dtype=torch.int64)
    arrays = [one.contiguous().numpy() for one in (weight.float(), inverse.float(), steps, zeros)]

    def work(first: int, last: int) -> None:
        compiled.round_rows(*arrays, levels, _CLIPPED, first, last, codes.numpy())

    over_rows(work, len(weight))
    return codes


def _round_rows(
    weight: Tensor, inverse: Tensor, steps: Tensor, zeros: Tensor, levels: int
) -> Tensor:
    """Do the same in torch, all rows side by side."""
    left, every = weight.clone(), torch.arange(len(weight), device=weight.device)
    rows, count = weight.shape
    codes = torch.zeros(weight.shape, dtype=torch.int64, device=weight.device)
    vectors = weight.new_zeros(rows, count, count)
    pivots = inverse.diagonal().expand(rows, -1).clone()
    done = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    for step in range(count):
        # What each weight would be rounded to if its turn were now, after all compensation so far.
        near = ((left / steps).round().long() + zeros).clamp(0, levels - 1)
        squared = (left - (near - zeros) * steps).square()
        cost = (squared / pivots).masked_fill(done, torch.inf)
        off = (squared / steps.square()).masked_fill(done, -torch.inf)
        # Cheap weights first; but one beyond its grid's end only moves farther away (section 5.2).
        farthest, place = off.max(1)
        chosen = torch.where(farthest > _CLIPPED, place, cost.argmin(1))
        codes[every, chosen] = near[every, chosen]
        error = left[every, chosen] - (near - zeros)[every, chosen] * steps[every, chosen]
        # Row `chosen` of H⁻¹ with the weights rounded so far eliminated, without forming it.
        past = vectors[:, :step]
        column = past[every, :, chosen]
        vector = inverse[chosen] - (column[:, None] @ past)[:, 0]
        pivot = pivots[every, chosen].sqrt()
        vector = vector / pivot[:, None]
        vectors[:, step] = vector
        # The optimal answer of all other weights to this error: -e H⁻¹[:, j] / [H⁻¹]_jj.
        left -= (error / pivot)[:, None] * vector
        pivots = (pivots - vector.square()).clamp_min(torch.finfo(torch.float32).tiny)
        done[every, chosen] = True
    return codes
