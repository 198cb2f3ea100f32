"""A few weights on a fine grid, all others as signs: the quantizer inside PB-LLM."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.binarize import binary_scales, signed
from crvq.vq.uniform_grid import fit_grid, grid_codes, grid_values


class PartialBinaryColumns:
    """A `ColumnQuantizer` that binarizes all but salient weights (PB-LLM, arXiv 2310.00034).

    Args:
        weight: ``(out, in)``, as it is before any column is quantized.
        cost: of an error of each column, ``(in,)``; salient weights have the largest ``cost w²``.
        salient_ratio: part of a group's weights that are salient.
        salient_bits: of their codes, on one asymmetric grid a row.
        group_size: columns that share one scale per row, and a number of salient weights.
    """

    width = 1

    def __init__(
        self, weight: Tensor, cost: Tensor, salient_ratio: float, salient_bits: int, group_size: int
    ) -> None:
        self.span = group_size
        self._cost, self._ratio, self._bits = cost, salient_ratio, salient_bits
        self.steps, self.zeros = fit_grid(weight, salient_bits)
        groups = -(-weight.shape[1] // group_size)
        self.salient = torch.zeros_like(weight, dtype=torch.bool)
        self.signs = torch.zeros_like(self.salient)
        self.codes = torch.zeros_like(weight, dtype=torch.int64)
        self.scales = torch.zeros(len(weight), groups, device=weight.device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Choose the group's salient weights, and fit the scales of the others."""
        self._group = columns.start // self.span
        saliency = (weight.square() * self._cost[columns]).flatten()
        number = salient_number(weight.numel(), self._ratio)
        chosen = torch.zeros_like(saliency, dtype=torch.bool)
        chosen[saliency.topk(number).indices] = True
        self.salient[:, columns] = chosen.view_as(weight)
        others = ~self.salient[:, columns]
        self.scales[:, self._group] = binary_scales(weight, others, centred=False)[0]

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Salient weights to the row's grid, the others to plus or minus the row's scale."""
        salient, signs = self.salient[:, columns], weight >= 0
        steps, zeros = self.steps[:, None], self.zeros[:, None]
        codes = grid_codes(weight, steps, zeros, self._bits)
        self.signs[:, columns], self.codes[:, columns] = signs & ~salient, codes * salient
        binary = signed(signs) * self.scales[:, self._group, None]
        return torch.where(salient, grid_values(codes, steps, zeros), binary)


def salient_number(weights: int, ratio: float) -> int:
    """Salient weights of a group of so many."""
    return round(ratio * weights)
