"""Columns rounded to trits: the quantizers inside PT2-LLM and PTQTP, and similar columns."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.storage_range import to_float16
from crvq.vq.ternary import (
    aligned_fit,
    best_trits,
    fit_asymmetric,
    fit_planes,
    nearest_trits,
)


class AsymmetricTernaryColumns:
    """A `ColumnQuantizer` to ``μ + α t`` (PT2-LLM, arXiv 2510.03267).

    When a block's turn comes its centres, scales and trits are fitted to the weights as they are
    then, and centres and scales aligned to H. Columns that are rounded before the block's last
    take the nearest trits of that grid; a whole block keeps the fitted trits.

    Args:
        second_moment: H in the order of columns.
        out_features: rows.
        block: columns that share a centre and a scale.
        width: columns rounded together.
        iterations: of the fit.
        aligned: whether centres and scales are aligned to H.
    """

    def __init__(
        self,
        second_moment: Tensor,
        out_features: int,
        block: int,
        width: int,
        iterations: int,
        *,
        aligned: bool,
    ) -> None:
        self.width, self.span = width, block
        self._moment, self._iterations, self._aligned = second_moment, iterations, aligned
        columns, device = len(second_moment), second_moment.device
        groups = -(-columns // block)
        self.trits = torch.zeros(1, out_features, columns, dtype=torch.int8, device=device)
        self.scales = torch.zeros(1, out_features, groups, device=device)
        self.centres = torch.zeros(out_features, groups, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the block's centres, scales and trits."""
        self._group = columns.start // self.span
        centres, scales, trits = fit_asymmetric(weight, self._iterations)
        if self._aligned:
            centres, scales = aligned_fit(weight, trits, self._moment[columns, columns])
        self.trits[0, :, columns] = trits
        self.scales[0, :, self._group] = to_float16(scales, "a scale")
        self.centres[:, self._group] = to_float16(centres, "a centre")

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Round to the block's grid; a whole block keeps its trits."""
        scales, centres = self.scales[0, :, self._group], self.centres[:, self._group]
        if self.width < self.span:
            self.trits[0, :, columns] = nearest_trits(weight, centres, scales)
        return centres[:, None] + scales[:, None] * self.trits[0, :, columns]


class TritPlaneColumns:
    """A `ColumnQuantizer` to ``Σ_k α_k t_k`` (PTQTP, arXiv 2509.16989).

    Args:
        shape: ``(out, in)``.
        planes: k.
        group_size: columns that share scales.
        iterations: of a group's fit, at most.
        tolerance: of a group's fit.
        device: of the weight.
    """

    width = 1

    def __init__(
        self,
        shape: tuple[int, int],
        planes: int,
        group_size: int,
        iterations: int,
        tolerance: float,
        device: torch.device,
    ) -> None:
        self.span = group_size
        self._planes, self._iterations, self._tolerance = planes, iterations, tolerance
        groups = -(-shape[1] // group_size)
        self.trits = torch.zeros(planes, *shape, dtype=torch.int8, device=device)
        self.scales = torch.zeros(planes, shape[0], groups, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the group's scales."""
        self._group = columns.start // self.span
        fitted, _ = fit_planes(weight, self._planes, self._iterations, self._tolerance)
        self.scales[:, :, self._group] = fitted

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Choose the best trits of all planes together."""
        scales = self.scales[:, :, self._group]
        trits = best_trits(weight, scales)
        self.trits[:, :, columns] = trits
        return (trits.to(weight.dtype) * scales[:, :, None]).sum(0)


def similar_columns(weight: Tensor, importance: Tensor, block: int) -> Tensor:
    """Return an order in which blocks are made of similar columns.

    (PT2-LLM, section 3.4, "structural similarity-based reordering"; the authors' code is not
    published, and the choice of references is ours.) The most important column that is left is a
    block's reference, and the columns of the largest cosine with it are the rest of the block.

    Args:
        weight: ``(out, in)``.
        importance: of each column, ``(in,)``.
        block: columns of a block.

    Returns:
        ``(in,)``: the column at each place.
    """
    unit = weight / weight.norm(dim=0).clamp_min(1e-30)
    left = importance.argsort(descending=True, stable=True)
    order = []
    while len(left):
        cosine = unit[:, left].T @ unit[:, left[0]]
        cosine[0] = torch.inf
        ranked = cosine.argsort(descending=True, stable=True)
        order.append(left[ranked[:block]])
        # What is left stays in order of importance.
        left = left[ranked[block:].sort().values]
    return torch.cat(order)
