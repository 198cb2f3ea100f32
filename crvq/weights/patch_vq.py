"""Weights with a codebook for each patch: GPTVQ's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.vq.block_scales import SCALE_BITS, block_scales
from crvq.vq.grouped_codebooks import PatchLayout, decode_patches, load_patches
from crvq.weights.additive import index_bits
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount
from crvq.weights.entropy import order0_bits
from crvq.weights.quantized import QuantizedWeight


@dataclass
class PatchWeight(QuantizedWeight):
    """``Ŵ = s ⊙ C_patch[codes]``, in_features padded to whole vectors (and counted so)."""

    format: ClassVar[str] = "patch_vq"

    in_features: int
    layout: PatchLayout
    codes: Tensor
    """``(out, padded in / d)``, int64."""
    entries: Tensor
    """int8, ``(strips * bands, entries, d)``."""
    steps: Tensor
    """Of each codebook, ``(strips * bands,)``, float32 that float16 holds."""
    scale_block: int | None = None
    scale_codes: Tensor | None = None
    """``(out, blocks)``, int64, all strips side by side; None: no scales."""
    scale_spans: Tensor | None = None
    """``(strips, 2)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features = self.layout.out_features

    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32."""
        index = self.layout.codebook_index(self.codes.device)
        decoded = decode_patches(load_patches(self.entries, self.steps), self.codes, index)
        if self.scale_codes is not None:
            decoded = decoded * self.scales()
        return decoded[:, : self.in_features].contiguous()

    def scales(self) -> Tensor:
        """The block scale of each weight, ``(out, padded in)``."""
        assert self.scale_codes is not None
        assert self.scale_spans is not None
        assert self.scale_block is not None
        layout, parts = self.layout, []
        codes = self.scale_codes.split(-(-layout.columns // self.scale_block), 1)
        for strip, span in enumerate(self.scale_spans):
            columns = min(layout.columns, layout.in_features - strip * layout.columns)
            parts.append(block_scales(codes[strip], span, self.scale_block, columns))
        return torch.cat(parts, 1)

    def bits(self) -> BitCount:
        """Codes; 8-bit entries and a float16 step a codebook; 4-bit scales and their spans."""
        scales = 0.0
        if self.scale_codes is not None and self.scale_spans is not None:
            scales = 8.0 * packed_bytes(self.scale_codes.numel(), SCALE_BITS)
            scales += 16.0 * self.scale_spans.numel()
        return BitCount(
            codes=8.0 * packed_bytes(self.codes.numel(), self._width()),
            codebooks=8.0 * self.entries.numel() + 16.0 * self.steps.numel(),
            scales=scales,
        )

    def entropy_bits(self) -> float:
        """Of each codebook's codes, with frequencies of its own."""
        number, entries = self.entries.shape[:2]
        slots = self.layout.codebook_index(self.codes.device) * entries + self.codes
        counts = torch.bincount(slots.flatten(), minlength=number * entries)
        return order0_bits(counts.view(number, entries))

    def pack(self) -> dict[str, Tensor]:
        """Bit-packed codes, int8 codebooks, float16 steps; packed scales and float16 spans."""
        tensors = {
            "codes": pack_bits(self.codes, self._width()),
            "entries": self.entries,
            "steps": self.steps.half(),
        }
        if self.scale_codes is not None and self.scale_spans is not None:
            tensors["scales"] = pack_bits(self.scale_codes, SCALE_BITS)
            tensors["scale_spans"] = self.scale_spans.half()
        return tensors

    def header(self) -> dict[str, Any]:
        """Shapes and widths."""
        layout = self.layout
        return {
            "format": self.format,
            "out_features": self.out_features,
            "in_features": self.in_features,
            "padded_in_features": layout.in_features,
            "vector_size": layout.width,
            "columns": layout.columns,
            "rows": layout.rows,
            "scale_block": self.scale_block,
        }

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> PatchWeight:
        """Read what `pack` and `header` wrote."""
        layout = PatchLayout(
            header["out_features"],
            header["padded_in_features"],
            header["vector_size"],
            header["columns"],
            header["rows"],
        )
        shape = layout.out_features, layout.in_features // layout.width
        block = header["scale_block"]
        scale_codes = scale_spans = None
        if block is not None:
            blocks = scale_blocks(layout, block)
            scale_codes = unpack_bits(tensors["scales"], SCALE_BITS, (shape[0], blocks))
            scale_spans = tensors["scale_spans"].float()
        width = index_bits(tensors["entries"].shape[1])
        return cls(
            in_features=header["in_features"],
            layout=layout,
            codes=unpack_bits(tensors["codes"], width, shape),
            entries=tensors["entries"],
            steps=tensors["steps"].float(),
            scale_block=block,
            scale_codes=scale_codes,
            scale_spans=scale_spans,
        )

    def _width(self) -> int:
        return index_bits(self.entries.shape[1])


def scale_blocks(layout: PatchLayout, block: int) -> int:
    """Scales of a row: each strip has its own, the last of a strip perhaps for fewer columns."""
    last = layout.in_features - (layout.strips - 1) * layout.columns
    return (layout.strips - 1) * -(-layout.columns // block) + -(-last // block)
