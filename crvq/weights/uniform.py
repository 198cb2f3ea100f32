"""Weights on uniform grids: RTN's and GPTQ's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.vq.uniform_grid import grid_values
from crvq.weights.additive import index_bits
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.quantized import QuantizedWeight


@dataclass
class UniformWeight(QuantizedWeight):
    """``Ŵ[o, π[p]] = (q[o, p] - zero[o, g]) * step[o, g]`` with ``g = p // group_size``."""

    format: ClassVar[str] = "uniform"

    code_bits: int
    group_size: int
    codes: Tensor
    """``(out, in)``, int64, in coded column order."""
    steps: Tensor
    """``(out, groups)``, float32 that float16 holds."""
    zeros: Tensor
    """Zero points ``(out, groups)``, int64, ``code_bits`` wide."""
    order: Tensor | None = None
    """π, ``(in,)``: coded position p holds channel π[p]; None: the natural order, not stored."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.codes.shape

    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32, natural column order."""
        group = torch.arange(self.in_features, device=self.codes.device) // self.group_size
        coded = grid_values(self.codes, self.steps[:, group], self.zeros[:, group])
        if self.order is None:
            return coded
        natural = torch.empty_like(coded)
        natural[:, self.order] = coded
        return natural

    def bits(self) -> BitCount:
        """Codes, float16 steps and packed zero points (both as scales), and the permutation."""
        width = index_bits(self.in_features)
        return BitCount(
            codes=8.0 * packed_bytes(self.codes.numel(), self.code_bits),
            scales=16.0 * self.steps.numel()
            + 8.0 * packed_bytes(self.zeros.numel(), self.code_bits),
            permutation=0.0 if self.order is None else 8.0 * packed_bytes(len(self.order), width),
        )

    def entropy_bits(self) -> float:
        """Of all codes together."""
        return code_entropy_bits(self.codes)

    def pack(self) -> dict[str, Tensor]:
        """Bit-packed codes and zero points, float16 steps, packed permutation."""
        tensors = {
            "codes": pack_bits(self.codes, self.code_bits),
            "steps": self.steps.half(),
            "zeros": pack_bits(self.zeros, self.code_bits),
        }
        if self.order is not None:
            tensors["order"] = pack_bits(self.order, index_bits(self.in_features))
        return tensors

    def header(self) -> dict[str, Any]:
        """Shapes and widths."""
        return {
            "format": self.format,
            "out_features": self.out_features,
            "in_features": self.in_features,
            "code_bits": self.code_bits,
            "group_size": self.group_size,
            "reordered": self.order is not None,
        }

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> UniformWeight:
        """Read what `pack` and `header` wrote."""
        shape = header["out_features"], header["in_features"]
        width, group_size = header["code_bits"], header["group_size"]
        groups = -(-shape[1] // group_size)
        order = None
        if header["reordered"]:
            order = unpack_bits(tensors["order"], index_bits(shape[1]), (shape[1],))
        return cls(
            code_bits=width,
            group_size=group_size,
            codes=unpack_bits(tensors["codes"], width, shape),
            steps=tensors["steps"].float(),
            zeros=unpack_bits(tensors["zeros"], width, (shape[0], groups)),
            order=order,
        )
