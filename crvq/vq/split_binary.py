"""Blocks of columns binarized in groups: the quantizer inside BiLLM."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.binarize import binary_scales, break_point, salient_columns, signed
from crvq.vq.storage_range import to_float16

CONCENTRATED, SPARSE, SALIENT, RESIDUAL = range(4)
"""Places of a block's four scales; its three centres are those of the first three."""


class SplitBinaryColumns:
    """A `ColumnQuantizer` with signs for weights (BiLLM, arXiv 2402.04291, algorithms 1 and 2).

    When a block's turn comes, some columns are chosen as salient: their weights get a second sign
    for what the first leaves over. The other weights fall into two groups by magnitude, each with
    its own scale per row.

    Args:
        shape: ``(out, in)``.
        cost: of an error of each column once later ones have compensated it, ``(in,)``.
        block: columns that share scales.
        width: columns rounded together, errors of earlier ones compensated.
        most_salient: part of a block's columns that may be salient.
        splitting: False makes one group of all weights that are not salient.
        centred: whether groups have centres as well as scales.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        cost: Tensor,
        block: int,
        width: int,
        most_salient: float,
        splitting: bool,
        centred: bool,
    ) -> None:
        out_features, in_features = shape
        self.width, self.span = width, block
        self._cost, self._most = cost, most_salient
        self._splitting, self._centred = splitting, centred
        blocks, device = -(-in_features // block), cost.device
        self.salient = torch.zeros(in_features, dtype=torch.bool, device=device)
        self.signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.sparse = torch.zeros(shape, dtype=torch.bool, device=device)
        self.second_signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.scales = torch.zeros(out_features, blocks, 4, device=device)
        self.centres = torch.zeros(out_features, blocks, 3, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Choose the block's salient columns and groups, and fit scales."""
        self._block = columns.start // self.span
        # Optimal brain surgeon's saliency, w² / [H⁻¹]_jj, of the weights as they are now.
        saliency = (weight.square() * self._cost[columns]).sum(0)
        most = most_salient_columns(weight.shape[1], self._most)
        salient = salient_columns(weight, saliency, most)
        sparse = torch.zeros_like(weight, dtype=torch.bool)
        if self._splitting and not bool(salient.all()):
            sparse = (weight.abs() >= break_point(weight[:, ~salient])) & ~salient
        self.salient[columns], self.sparse[:, columns] = salient, sparse
        self._fit(CONCENTRATED, weight, ~sparse & ~salient)
        self._fit(SPARSE, weight, sparse)
        self._fit(SALIENT, weight, salient)
        # The second sign of salient weights codes what the first leaves over.
        self._first_centres = self.centres[:, self._block, SALIENT].clone()
        scale = self.scales[:, self._block, SALIENT, None]
        residual = weight - self._first_centres[:, None]
        residual = residual - scale * signed(residual >= 0)
        self.scales[:, self._block, RESIDUAL], centres = binary_scales(
            residual, salient, self._centred
        )
        # Both centres of salient weights are stored as their sum.
        self.centres[:, self._block, SALIENT] = to_float16(self._first_centres + centres)

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Return the nearest of a group's values; for salient weights, sign by sign."""
        salient, sparse = self.salient[columns], self.sparse[:, columns]
        scales, centres = self.scales[:, self._block], self.centres[:, self._block]
        scale = torch.where(sparse, scales[:, SPARSE, None], scales[:, CONCENTRATED, None])
        scale = torch.where(salient, scales[:, SALIENT, None], scale)
        centre = torch.where(sparse, centres[:, SPARSE, None], centres[:, CONCENTRATED, None])
        centre = torch.where(salient, self._first_centres[:, None], centre)
        # The first sign is taken about the first centre, but decoding adds the stored sum of both.
        signs = weight >= centre
        centre = torch.where(salient, centres[:, SALIENT, None], centre)
        values = centre + scale * signed(signs)
        second = (weight >= values) & salient
        values += salient * scales[:, RESIDUAL, None] * signed(second)
        self.signs[:, columns], self.second_signs[:, columns] = signs, second
        return values

    def _fit(self, place: int, weight: Tensor, mask: Tensor) -> None:
        fitted = binary_scales(weight, mask, self._centred)
        self.scales[:, self._block, place], self.centres[:, self._block, place] = fitted


def most_salient_columns(columns: int, part: float) -> int:
    """Return how many columns of a block may be salient: at least one, unless none are wanted."""
    return max(1, int(part * columns)) if part > 0 else 0
