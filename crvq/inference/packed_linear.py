"""The tensors of a quantized linear as inference keeps them, and decoding in plain torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crvq.inference.packed_codes import TILE, pack_codes, padded_rows, unpack_codes
from crvq.weights.additive import AdditiveWeight, index_bits


@dataclass
class PackedLinear:
    """``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])`` without any dense weight (arXiv 2412.09282, section 3).

    Codebook k covers the first ``groups[k]`` groups of ``d`` positions; codebook 0 covers all.
    """

    out_features: int
    in_features: int
    codes: list[Tensor]
    """uint8, one per codebook, as `crvq.inference.packed_codes.pack_codes` lays them out."""
    bits: list[int]
    """Width of a code of each codebook, 1 to 16."""
    groups: list[int]
    codebooks: list[Tensor]
    """``(entries, d)``: float16, int8 with ``steps``, or float32/float64 while they train."""
    steps: list[Tensor | None]
    """float16 ``(d,)`` for an int8 codebook: entries count in these steps."""
    scales: Tensor
    """``(out,)``, float16, or float32/float64 while they train."""
    order: Tensor | None = None
    """int16 or int32 ``(positions,)``: position p reads in feature ``order[p]``; those from
    ``in_features`` on are padding and read zero. None: positions are in features."""
    bias: Tensor | None = None
    """``(out,)``."""
    prepared: dict[Any, Any] = field(default_factory=dict)
    """What kernels derive from these tensors and keep; emptied by making a new object."""

    @property
    def group_size(self) -> int:
        """d."""
        return self.codebooks[0].shape[1]

    @property
    def positions(self) -> int:
        """In features with padding."""
        return self.groups[0] * self.group_size

    @property
    def tiles(self) -> int:
        """Tiles of out features."""
        return padded_rows(self.out_features) // TILE

    def entries(self, k: int, dtype: torch.dtype) -> Tensor:
        """Codebook k in a floating type."""
        entries, steps = self.codebooks[k], self.steps[k]
        return entries.to(dtype) if steps is None else entries.to(dtype) * steps.to(dtype)

    def rows(self, tiles: slice) -> slice:
        """Out features of a slice of tiles."""
        return slice(tiles.start * TILE, min(tiles.stop * TILE, self.out_features))

    def unpacked(self, k: int, tiles: slice) -> Tensor:
        """Codes of codebook k, int64 ``(rows, groups[k])``."""
        codes = unpack_codes(self.codes[k], self.bits[k], self.groups[k], self.tiles, tiles)
        rows = self.rows(tiles)
        return codes[: rows.stop - rows.start]

    def decode(self, tiles: slice, dtype: torch.dtype, scaled: bool = True) -> Tensor:
        """Decode some out features in coded column order: ``(rows, positions)``."""
        weight = functional.embedding(self.unpacked(0, tiles), self.entries(0, dtype))
        for k in range(1, len(self.codes)):
            codes = self.unpacked(k, tiles)
            weight[:, : codes.shape[1]] += functional.embedding(codes, self.entries(k, dtype))
        weight = weight.flatten(1)
        return weight * self.scales[self.rows(tiles), None].to(dtype) if scaled else weight

    def reorder(self, x: Tensor) -> Tensor:
        """Lay inputs ``(..., in)`` out in coded order: ``(..., positions)``, padding zero."""
        if self.positions != x.shape[-1]:
            x = functional.pad(x, (0, self.positions - x.shape[-1]))
        return x if self.order is None else x.index_select(-1, self.order.int())


def pack_linear(weight: AdditiveWeight, bias: Tensor | None = None) -> PackedLinear:
    """Repack a quantized weight for inference.

    Args:
        weight: its codes, codebooks, scales and order are read; it is left unchanged.
        bias: ``(out,)``.
    """
    bits = [max(1, index_bits(len(parts["entries"]))) for parts in weight.codebooks]
    positions = len(weight.order)
    order = None
    if not torch.equal(weight.order, torch.arange(positions, device=weight.order.device)):
        order = weight.order.to(torch.int16 if positions <= 1 << 15 else torch.int32)
    return PackedLinear(
        out_features=weight.out_features,
        in_features=weight.in_features,
        codes=[pack_codes(c, width) for c, width in zip(weight.code.codes, bits, strict=True)],
        bits=bits,
        groups=weight.code.coverage(),
        codebooks=[parts["entries"].contiguous() for parts in weight.codebooks],
        steps=[parts.get("steps") for parts in weight.codebooks],
        scales=weight.code.scales.half(),
        order=order,
        bias=bias,
    )
