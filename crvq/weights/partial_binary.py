"""Weights as signs, a few of them on a fine grid: PB-LLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.vq.binarize import signed
from crvq.vq.uniform_grid import grid_values
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount
from crvq.weights.entropy import code_entropy_bits, mask_entropy_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.sparse_mask import mask_bytes, pack_mask, unpack_mask

_MASK = ("bitmap", "numbers", "places")


@dataclass
class PartialBinaryWeight(QuantizedWeight):
    """``α b``, or ``(q - zero) step`` for salient weights (PB-LLM, arXiv 2310.00034, section 3)."""

    format: ClassVar[str] = "partial_binary"

    salient_bits: int
    group_size: int
    """Columns that share a scale."""
    salient: Tensor
    """``(out, in)``, bool."""
    signs: Tensor
    """``(out, in)``, bool; True is plus. Of weights that are not salient."""
    codes: Tensor
    """``(out, in)``, int64. Of salient weights."""
    scales: Tensor
    """Scale of each row of a group, ``(out, groups)``, float32 that float16 holds."""
    steps: Tensor
    """``(out,)``, float32 that float16 holds."""
    zeros: Tensor
    """Zero points, ``(out,)``, int64, ``salient_bits`` wide."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.signs.shape

    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32."""
        group = torch.arange(self.in_features, device=self.signs.device) // self.group_size
        fine = grid_values(self.codes, self.steps[:, None], self.zeros[:, None])
        return torch.where(self.salient, fine, signed(self.signs) * self.scales[:, group])

    def bits(self) -> BitCount:
        """See `partial_binary_bits`."""
        shape = self.out_features, self.in_features
        return partial_binary_bits(
            shape, int(self.salient.sum()), self.group_size, self.salient_bits
        )

    def entropy_bits(self) -> float:
        """Of the mask, the signs and the salient codes, each a source of its own."""
        return (
            mask_entropy_bits(self.salient)
            + mask_entropy_bits(self.signs[~self.salient])
            + code_entropy_bits(self.codes[self.salient])
        )

    def bits_as_published(self) -> float:
        """Salient weights by their codes, others 1 bit (section 4.1): no mask, no scales."""
        salient = int(self.salient.sum())
        return float(salient * self.salient_bits + self.signs.numel() - salient)

    def pack(self) -> dict[str, Tensor]:
        """Signs, salient codes, the mask, and the scales and grids that any weight has."""
        tensors = {}
        if not bool(self.salient.all()):
            tensors["signs"] = pack_bits(self.signs[~self.salient], 1)
            tensors["scales"] = self.scales.half()
        if bool(self.salient.any()):
            tensors |= pack_mask(self.salient)
            tensors["codes"] = pack_bits(self.codes[self.salient], self.salient_bits)
            tensors["steps"] = self.steps.half()
            tensors["zeros"] = pack_bits(self.zeros, self.salient_bits)
        return tensors

    def header(self) -> dict[str, Any]:
        """Shape, widths and how many weights are salient."""
        return {
            "format": self.format,
            "out_features": self.out_features,
            "in_features": self.in_features,
            "salient_bits": self.salient_bits,
            "group_size": self.group_size,
            "salient": int(self.salient.sum()),
        }

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> PartialBinaryWeight:
        """Read what `pack` and `header` wrote."""
        shape = header["out_features"], header["in_features"]
        width, number, group_size = header["salient_bits"], header["salient"], header["group_size"]
        rows, groups = shape[0], -(-shape[1] // group_size)
        weight = cls(
            salient_bits=width,
            group_size=group_size,
            salient=torch.zeros(shape, dtype=torch.bool),
            signs=torch.zeros(shape, dtype=torch.bool),
            codes=torch.zeros(shape, dtype=torch.int64),
            scales=torch.zeros(rows, groups),
            steps=torch.ones(rows),
            zeros=torch.zeros(rows, dtype=torch.int64),
        )
        if number:
            mask = {name: tensors[name] for name in _MASK if name in tensors}
            weight.salient = unpack_mask(mask, shape, number)
            weight.codes[weight.salient] = unpack_bits(tensors["codes"], width, (number,))
            weight.steps = tensors["steps"].float()
            weight.zeros = unpack_bits(tensors["zeros"], width, (rows,))
        others = rows * shape[1] - number
        if others:
            signs = unpack_bits(tensors["signs"], 1, (others,)).bool()
            weight.signs[~weight.salient] = signs
            weight.scales = tensors["scales"].float()
        return weight


def partial_binary_bits(
    shape: tuple[int, int], salient: int, group_size: int, salient_bits: int
) -> BitCount:
    """Signs, salient codes and mask (codes); float16 scales; a float16 step and a zero a row.

    Args:
        shape: ``(out, in)``.
        salient: weights that are salient; none need no grid, all need no signs.
        group_size: columns that share a scale.
        salient_bits: of a salient weight's code.
    """
    rows, columns = shape
    codes, scales = 0, 0.0
    if salient < rows * columns:
        codes += packed_bytes(rows * columns - salient, 1)
        scales += 16.0 * rows * -(-columns // group_size)
    if salient:
        codes += mask_bytes(shape, salient) + packed_bytes(salient, salient_bits)
        scales += 16.0 * rows + 8.0 * packed_bytes(rows, salient_bits)
    return BitCount(codes=8.0 * codes, scales=scales)
