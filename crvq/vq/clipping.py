"""Uniform grids whose ranges are clipped by learned factors: the quantizer of OmniQuant's LWC."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.storage import to_positive_float16
from crvq.vq.uniform_grid import grid_codes, grid_values

_START = 4.0
"""Logit of a factor before training: sigmoid(4) = 0.982, as in the authors' code."""


class ClippedGrids:
    """Grids of each row's groups, between clipped least and largest values.

    Args:
        weight: ``(out, in)``.
        bits: of a code.
        group_size: columns that share a grid.
    """

    def __init__(self, weight: Tensor, bits: int, group_size: int) -> None:
        columns = weight.shape[1]
        self.weight, self._levels, self._bits = weight, 2**bits - 1, bits
        self._group = torch.arange(columns, device=weight.device) // group_size
        parts = weight.split(group_size, 1)
        # Zero stays inside every range, as in `uniform_grid`: dead weights must stay zero.
        self._least = torch.stack([part.amin(1) for part in parts], 1).clamp_max(0)
        self._largest = torch.stack([part.amax(1) for part in parts], 1).clamp_min(0)

    def grids(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps and (unrounded) zero points ``(out, groups)`` for factors in (0, 1]."""
        least, largest = low * self._least, high * self._largest
        steps = ((largest - least) / self._levels).clamp_min(2.0**-24)
        return steps, -least / steps

    def stored(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, steps as float16 holds them, and integer zero points."""
        steps, _ = self.grids(low, high)
        steps = to_positive_float16(steps)
        zeros = (-low * self._least / steps).round().clamp(0, self._levels).long()
        group = self._group
        return grid_codes(self.weight, steps[:, group], zeros[:, group], self._bits), steps, zeros

    def decoded(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the weight that `stored` stands for."""
        codes, steps, zeros = self.stored(low, high)
        return grid_values(codes, steps[:, self._group], zeros[:, self._group])

    def soft(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the decoded weight with gradients: rounding counts as the identity (STE)."""
        steps, zeros = self.grids(low, high)
        steps, zeros = steps[:, self._group], _round(zeros)[:, self._group]
        codes = _round(self.weight / steps) + zeros
        return (codes.clamp(0, self._levels) - zeros) * steps


def learn_clipping(
    grids: ClippedGrids, second_moment: Tensor, steps: int, learning_rate: float
) -> tuple[Tensor, Tensor]:
    """Learn the factors of each grid's range by AdamW on ``tr((W - Ŵ) H (W - Ŵ)ᵀ)``.

    (OmniQuant, arXiv 2308.13137, section 3.2; sigmoid of a logit that starts at 4, learning rate
    1e-2 without decay, as in the authors' code.) Factors of 1, plain rounding to nearest, take part
    in the choice of the best.

    Returns:
        The factors ``(out, groups)`` of least and largest values whose stored weight loses least.
    """
    shape = grids._least.shape
    ones = torch.ones(shape, device=second_moment.device)
    best = ones, ones
    least = _row_losses(grids, best, second_moment)
    logits = [torch.full(shape, _START, device=ones.device).requires_grad_() for _ in range(2)]
    optimizer = torch.optim.AdamW(logits, lr=learning_rate, weight_decay=0.0)
    # Rows are independent. Dividing each row's loss by its size gives all the same step, and
    # keeps weights of any size within float32.
    size = _energy(grids.weight, second_moment).clamp_min(1e-30)[:, None]
    for step in range(steps + 1):
        factors = logits[0].detach().sigmoid(), logits[1].detach().sigmoid()
        # Stored weights are judged, not the soft ones: a lower soft loss may round to a higher one.
        if step % 10 == 0 or step == steps:
            losses = _row_losses(grids, factors, second_moment)
            better = (losses < least)[:, None]
            least = torch.minimum(losses, least)
            best = (
                torch.where(better, factors[0], best[0]),
                torch.where(better, factors[1], best[1]),
            )
        if step == steps:
            break
        with torch.enable_grad():
            soft = grids.soft(logits[0].sigmoid(), logits[1].sigmoid())
        # The loss is quadratic in the decoded weight, so its gradient is known: -2 E H.
        gradient = (soft.detach() - grids.weight) @ second_moment * (2 / size)
        found = torch.autograd.grad(soft, logits, gradient)
        for logit, part in zip(logits, found, strict=True):
            logit.grad = part
        optimizer.step()
    return best


def _energy(error: Tensor, second_moment: Tensor) -> Tensor:
    return ((error @ second_moment) * error).sum(1)


def _row_losses(
    grids: ClippedGrids, factors: tuple[Tensor, Tensor], second_moment: Tensor
) -> Tensor:
    """Return each row's loss of the stored weight: rows choose their best factors separately."""
    return _energy(grids.weight - grids.decoded(*factors), second_moment)


def _round(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()
