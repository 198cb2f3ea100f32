"""Blocks of columns as signs times row and column scales: the quantizer inside ARB-LLM_RC."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from crvq.vq.binary import break_point, most_salient_columns, salient_columns, signed
from crvq.vq.storage import to_float16


def rank_one(
    magnitudes: Tensor, mask: Tensor, columns: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Fit ``m ≈ α βᵀ`` on the masked places by least squares of α and β in turn.

    (ARB-LLM, arXiv 2410.03129, section 3.3, equations of α^r and α^c.) For ``w ≈ α βᵀ ⊙ s``, m is
    ``w ⊙ s``, the magnitudes if s are the signs of w. The product's scale is shared out so that β
    has a root mean square of 1: both then fit float16 whenever weights do.

    Args:
        magnitudes: m, ``(out, columns)``.
        mask: the places that count, the same shape, bool.
        columns: β to start from, ``(columns,)``.
        iterations: of α and β each.

    Returns:
        α ``(out,)`` and β ``(columns,)``; zero where no place counts.
    """
    # In float64: α and β are quotients of sums over thousands of places.
    m, kept = magnitudes.double() * mask, mask.double()
    beta = columns.double()
    alpha = _ratio(m @ beta, kept @ beta.square())
    # Each half is the least-squares answer to the other, so the error never rises.
    for _ in range(iterations):
        beta = _ratio(m.T @ alpha, kept.T @ alpha.square())
        alpha = _ratio(m @ beta, kept @ beta.square())
    size = beta.square().mean().sqrt()
    if float(size) > 0:
        alpha, beta = alpha * size, beta / size
    return alpha.to(magnitudes.dtype), beta.to(magnitudes.dtype)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    tiny = torch.finfo(below.dtype).tiny
    return torch.where(below > 0, above / below.clamp_min(tiny), 0.0)


def best_two_signs(weight: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signs (bool) of ``w ≈ s₁ a + s₂ b`` nearest to each weight: the best of four."""
    least = torch.full_like(weight, torch.inf)
    one, two = (
        torch.zeros_like(weight, dtype=torch.bool),
        torch.zeros_like(weight, dtype=torch.bool),
    )
    for plus, also in itertools.product((True, False), repeat=2):
        value = (first if plus else -first) + (second if also else -second)
        error = (weight - value).abs()
        closer = error < least
        least = torch.where(closer, error, least)
        one, two = torch.where(closer, plus, one), torch.where(closer, also, two)
    return one, two


class RowColumnColumns:
    """A `ColumnQuantizer` with row and column scales (ARB-LLM_RC with column-group bitmap).

    When a block's turn comes, salient columns are chosen as in BiLLM; salient and other weights
    are each split in two groups by magnitude (section 3.4, "column-group bitmap"); scales are
    refined in turn (section 3.3), for salient columns together with both their signs.

    Args:
        shape: ``(out, in)``.
        cost: of an error of each column once later ones have answered it, ``(in,)``.
        block: columns that share row scales.
        width: columns rounded together.
        most_salient: part of a block's columns that may be salient.
        splitting: False makes one group of each kind of column.
        iterations: of the refinement.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        cost: Tensor,
        block: int,
        width: int,
        most_salient: float,
        splitting: bool,
        iterations: int,
    ) -> None:
        out_features, in_features = shape
        self.width, self.span = width, block
        self._cost, self._most, self._iterations = cost, most_salient, iterations
        self._splitting, self._groups = splitting, 2 if splitting else 1
        blocks, device = -(-in_features // block), cost.device
        self.salient = torch.zeros(in_features, dtype=torch.bool, device=device)
        self.signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.second_signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.groups = torch.zeros(shape, dtype=torch.bool, device=device)
        self.rows = torch.zeros(out_features, blocks, 2, 2, self._groups, device=device)
        self.columns = torch.zeros(in_features, 2, self._groups, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Choose the block's salient columns and groups, and refine its scales."""
        self._block = columns.start // self.span
        saliency = (weight.square() * self._cost[columns]).sum(0)
        most = most_salient_columns(weight.shape[1], self._most)
        salient = salient_columns(weight, saliency, most)
        self.salient[columns] = salient
        group = torch.zeros_like(weight, dtype=torch.bool)
        for kind in (salient, ~salient):
            if self._splitting and bool(kind.any()):
                group |= (weight.abs() >= break_point(weight[:, kind])) & kind
        self.groups[:, columns] = group
        for number in range(self._groups):
            own = group if number else ~group
            self._fit_plain(columns, weight, own & ~salient, number)
            if bool(salient.any()):
                self._fit_salient(columns, weight, own & salient, number)

    def _fit_plain(self, columns: slice, weight: Tensor, mask: Tensor, group: int) -> None:
        ones = torch.ones(weight.shape[1], device=weight.device)
        alpha, beta = rank_one(weight.abs(), mask, ones, self._iterations)
        self.rows[:, self._block, 0, 0, group] = to_float16(alpha, "a row scale")
        # Salient columns keep theirs for `_fit_salient`.
        plain = ~self.salient[columns]
        self._put(columns, plain, 0, group, beta)

    def _fit_salient(self, columns: slice, weight: Tensor, mask: Tensor, group: int) -> None:
        """Refine two terms: each one's scales against what the other leaves, then both signs."""
        ones = torch.ones(weight.shape[1], device=weight.device)
        alpha, beta = rank_one(weight.abs(), mask, ones, self._iterations)
        first, signs = alpha[:, None] * beta, weight >= 0
        left = weight - first * signed(signs)
        alpha2, beta2 = rank_one(left.abs(), mask, ones, self._iterations)
        second_signs = left >= 0
        for _ in range(self._iterations):
            left = weight - alpha2[:, None] * beta2 * signed(second_signs)
            alpha, beta = rank_one(left * signed(signs), mask, beta, 1)
            left = weight - alpha[:, None] * beta * signed(signs)
            alpha2, beta2 = rank_one(left * signed(second_signs), mask, beta2, 1)
            first, second = alpha[:, None] * beta, alpha2[:, None] * beta2
            signs, second_signs = best_two_signs(weight, first, second)
        chosen = self.salient[columns]
        for order, (rows, factors) in enumerate(((alpha, beta), (alpha2, beta2))):
            self.rows[:, self._block, 1, order, group] = to_float16(rows, "a row scale")
            self._put(columns, chosen, order, group, factors)

    def _put(self, columns: slice, chosen: Tensor, order: int, group: int, factors: Tensor) -> None:
        place = self.columns[columns, order, group]
        stored = to_float16(factors, "a column scale")
        self.columns[columns, order, group] = torch.where(chosen, stored, place)

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Choose the nearest sign, or the best of four pairs of signs in salient columns."""
        salient = self.salient[columns]
        rows = self.rows[:, self._block][:, salient.long()]  # (out, columns, 2, groups)
        products = rows * self.columns[columns]
        chosen = products[..., 0]
        if self._splitting:
            chosen = torch.where(self.groups[:, columns, None], products[..., 1], chosen)
        first, second = chosen[..., 0], chosen[..., 1] * salient
        signs, also = best_two_signs(weight, first, second)
        self.signs[:, columns], self.second_signs[:, columns] = signs, also & salient
        return first * signed(signs) + second * signed(also)
