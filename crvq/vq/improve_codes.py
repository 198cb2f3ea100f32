"""Scales and codes of a linear for fixed codebooks, with as few products with H as possible.

A product of a matrix of W's size with H costs ``2 · out · in²`` operations, and once in is beyond
the number of entries products with H are most of the solver's time. Three things avoid them:

- ``W H`` never changes, so it is computed once and ``P = (W - Ŵ) H`` follows from ``Q H``, which
  the scales need anyway: ``P = W H - s ⊙ Q H``, Q being the unscaled decoded weight.
- Coordinate descent ends with P of the codes that it leaves. Summed by entry, P is the gradient
  that the next codebook solve starts from, and times ``W - Ŵ`` it is the loss.
- All matrices are in coded order, so that no columns are gathered in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear, in_coded_order
from crvq.vq.codebook_solve import add_by_entry
from crvq.vq.coordinate_descent import descend_rows
from crvq.vq.scale_solve import best_scales, storable_scales


@dataclass(frozen=True)
class PreparedLinear:
    """A linear in coded order, and what stays the same through all rounds."""

    linear: CodedLinear
    """In coded order; its code is that of the linear it was made of."""
    weight_h: Tensor
    """``W H``, ``(out, in)``."""
    energy: float
    """``tr(W H Wᵀ)``: the loss of quantizing everything to zero."""


@dataclass(frozen=True)
class Improved:
    """What a pass over a linear leaves."""

    loss: float
    """``Σ_o (w_o - ŵ_o) H (w_o - ŵ_o)ᵀ``, not weighted by the linear's importance."""
    gradient: Tensor
    """``s ⊙ P`` summed by entry, weighted by importance, ``(all entries, d)``: where the next
    codebook solve starts."""


def prepare(linear: CodedLinear) -> PreparedLinear:
    """Reorder a linear's channels and compute what does not change; one product with H."""
    ordered = in_coded_order(linear)
    weight_h = torch.empty_like(ordered.weight)
    energy = 0.0
    for rows in ordered.row_tiles():
        torch.mm(ordered.weight[rows], ordered.hessian.matrix, out=weight_h[rows])
        energy += float((weight_h[rows] * ordered.weight[rows]).sum())
    return PreparedLinear(ordered, weight_h, energy)


def evaluate(prepared: PreparedLinear, codebooks: list[Tensor]) -> Improved:
    """Return the loss and the gradient of the present codes and scales; one product with H."""
    return _pass_over_rows(prepared, codebooks, change=False, last=False)


def improve_codes(prepared: PreparedLinear, codebooks: list[Tensor], last: bool) -> Improved:
    """Find new scales, then new codes for them; two products with H.

    Args:
        prepared: whose scales and codes change.
        codebooks: fixed.
        last: no more codes are searched after this pass: scales follow once more and become such
            as float16 holds.
    """
    return _pass_over_rows(prepared, codebooks, change=True, last=last)


def _pass_over_rows(
    prepared: PreparedLinear, codebooks: list[Tensor], change: bool, last: bool
) -> Improved:
    linear, sizes = prepared.linear, [len(codebook) for codebook in codebooks]
    # In float64: thousands of rows add to each entry, and small codebook steps must survive.
    total = torch.zeros_like(torch.cat(codebooks), dtype=torch.float64)
    loss = 0.0
    # One tile of rows goes through everything while it is in the cache.
    for rows in linear.row_tiles():
        weight, weight_h = linear.weight[rows], prepared.weight_h[rows]
        decoded = linear.code.decode(codebooks, rows)
        decoded_h = decoded @ linear.hessian.matrix
        scales = linear.code.scales[rows]
        if change:
            # Scales before codes: codes are then searched for the scales that they will have.
            scales = best_scales(weight, decoded, decoded_h, scales)
            linear.code.scales[rows] = scales
        residual_h = weight_h - decoded_h.mul_(scales[:, None])
        if change:
            descend_rows(linear, codebooks, rows, decoded, residual_h)
        if last:
            # ``Q H`` of the last codes, without a product: s ⊙ Q H is what W H and P differ by.
            decoded_h = (weight_h - residual_h) / scales[:, None]
            best = best_scales(weight, decoded, decoded_h, scales, may_be_zero=True)
            scales = storable_scales(best)
            linear.code.scales[rows] = scales
            residual_h = weight_h - decoded_h.mul_(scales[:, None])
        # tr(E H Eᵀ) = Σ E ⊙ (E H), and E H is P.
        error = torch.addcmul(weight, decoded, scales[:, None], value=-1.0)
        loss += float((error * residual_h).sum())
        # The derivative with respect to an entry is the sum of s ⊙ P over the places that use it.
        residual_h.mul_(scales[:, None] * linear.importance)
        add_by_entry(total, residual_h, linear, rows, sizes)
    return Improved(loss, total.float())
