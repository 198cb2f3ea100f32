"""Rounding that weighs the output error against the bits of an entropy coder (CERWU)."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian


class RateColumns:
    """A `ColumnQuantizer`: each weight takes the level of least error plus ``λ`` times rate.

    Args:
        steps: of each row's grid, ``(out,)``; levels are centred on zero.
        prices: of each level and row, ``(out, levels)``: λ times what is left of its rate.
        in_features: columns.
    """

    width = 1

    def __init__(self, steps: Tensor, prices: Tensor, in_features: int) -> None:
        self.span = in_features
        self.codes = torch.zeros(len(steps), in_features, dtype=torch.int64, device=steps.device)
        middle = prices.shape[1] // 2
        signed = torch.arange(-middle, middle + 1, device=steps.device, dtype=steps.dtype)
        self._values, self._prices = signed * steps[:, None], prices

    def start(self, columns: slice, weight: Tensor) -> None:
        """Grids are fixed."""

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Compare all levels."""
        costs = (weight - self._values).square() * metric[0, 0] + self._prices
        codes = costs.argmin(1, keepdim=True)
        self.codes[:, columns] = codes
        return self._values.gather(1, codes)


def round_at_rate(
    weight: Tensor,
    hessian: Hessian,
    steps: Tensor,
    counts: Tensor,
    price: float,
) -> Tensor:
    """Return codes ``(out, in)`` with little ``tr(E H Eᵀ) + λ rate``.

    The part of the rate that is quadratic in the value, ``γ q²`` with ``γ = 1 / (2 ln 2 var w)``
    (a Gaussian's code length), is minimized exactly: it adds ``λ γ`` to H's diagonal and shrinks
    the target to ``W H H'⁻¹``. The rest is charged symbol by symbol. (arXiv 2505.18758; the 2
    belongs to counting a squared error whole and not by half.)

    Args:
        weight: ``(out, in)``.
        hessian: H with its damping.
        steps: of each row's grid, ``(out,)``.
        counts: how often each level is expected, ``(levels,)``, levels odd.
        price: λ.
    """
    middle = len(counts) // 2
    smoothed = counts.double() + 0.5
    rates = -(smoothed / smoothed.sum()).log2()
    gamma = 1 / (2 * log(2) * float(weight.double().var().clamp_min(1e-30)))
    signed = torch.arange(-middle, middle + 1, device=weight.device)
    values = signed.double() * steps.double()[:, None]
    prices = price * (rates - gamma * values.square())
    matrix = hessian.matrix.double()
    damped = matrix + hessian.damping * matrix.diagonal().mean() * torch.eye(
        len(matrix), dtype=matrix.dtype, device=matrix.device
    )
    loaded = damped.clone()
    loaded.diagonal().add_(price * gamma)
    target = torch.linalg.solve(loaded, damped @ weight.double().T).T.float()
    # Codes are stored in natural order, so any order of quantization is free of bits.
    order = loaded.diagonal().argsort(descending=True, stable=True)
    factor = Hessian(loaded.float(), 0.0).feedback_factor(order)
    columns = RateColumns(steps, prices.float(), weight.shape[1])
    quantize_columns(target[:, order], columns, factor)
    codes = torch.empty_like(columns.codes)
    codes[:, order] = columns.codes
    return codes
