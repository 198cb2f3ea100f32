"""Weights as sums of codebook entries: CRVQ's and AQLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.vq.additive_code import AdditiveCode
from crvq.vq.codebook_storage import load_codebook
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.quantized import QuantizedWeight

_SCALE_BITS = 16


def index_bits(values: int) -> int:
    """Bits that tell ``values`` things apart: ⌈log2 values⌉, and 0 for a single one."""
    return ceil(log2(values)) if values > 1 else 0


@dataclass
class AdditiveWeight(QuantizedWeight):
    """``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])``, codebook k covering the first ``groups_k`` groups.

    (arXiv 2412.09282, section 3.) in_features that d does not divide are padded; the padding's
    codes are stored and counted.
    """

    format: ClassVar[str] = "additive"

    out_features: int
    in_features: int
    code: AdditiveCode
    """Codes and scales; scales hold float16 values."""
    codebooks: list[dict[str, Tensor]]
    """Stored parts of each codebook; see `crvq.vq.codebook_storage`."""
    order: Tensor
    """π, ``(groups * d,)``: coded position p holds channel π[p]."""
    reordered: int
    """How many leading positions of π are stored: 0 when the order is the natural one, all for
    a full permutation, or only the critical channels when the others keep their natural order."""
    codebook_set: str | None = None
    """Name of the set when several weights share these codebooks."""
    codebook_share: float = 1.0
    """Part of the codebooks' bits that this weight answers for."""
    notes: list[str] = field(default_factory=list)

    @property
    def group_size(self) -> int:
        """d."""
        return self.codebooks[0]["entries"].shape[1]

    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32, natural column order."""
        coded = self.code.dequantize([load_codebook(parts) for parts in self.codebooks])
        natural = torch.empty_like(coded)
        natural[:, self.order] = coded
        return natural[:, : self.in_features].contiguous()

    def bits(self) -> BitCount:
        """Codes, codebooks (by share), float16 scales and the permutation, as stored."""
        codes = sum(
            packed_bytes(codes.numel(), width) * 8
            for codes, width in zip(self.code.codes, self._widths(), strict=True)
        )
        codebooks = sum(
            part.numel() * part.element_size() * 8
            for parts in self.codebooks
            for part in parts.values()
        )
        return BitCount(
            codes=float(codes),
            codebooks=codebooks * self.codebook_share,
            scales=float(self.code.scales.numel() * _SCALE_BITS),
            permutation=float(packed_bytes(self.reordered, index_bits(len(self.order))) * 8),
        )

    def entropy_bits(self) -> float:
        """Of each codebook's codes."""
        return sum(code_entropy_bits(codes) for codes in self.code.codes)

    def pack(self) -> dict[str, Tensor]:
        """Bit-packed codes, float16 scales, packed permutation, and codebooks unless shared."""
        tensors = {
            f"codes.{k}": pack_bits(codes, width)
            for k, (codes, width) in enumerate(zip(self.code.codes, self._widths(), strict=True))
        }
        tensors["scales"] = self.code.scales.half()
        if self.reordered:
            stored = self.order[: self.reordered]
            tensors["order"] = pack_bits(stored, index_bits(len(self.order)))
        if self.codebook_set is None:
            tensors |= self._codebook_tensors()
        return tensors

    def shared(self) -> tuple[str, dict[str, Tensor]] | None:
        """The codebooks, when they belong to a set."""
        if self.codebook_set is None:
            return None
        return self.codebook_set, self._codebook_tensors()

    def header(self) -> dict[str, Any]:
        """Shapes and widths."""
        return {
            "format": self.format,
            "out_features": self.out_features,
            "in_features": self.in_features,
            "groups": [codes.shape[1] for codes in self.code.codes],
            "code_bits": self._widths(),
            "positions": len(self.order),
            "reordered": self.reordered,
            "codebook_set": self.codebook_set,
            "codebook_share": self.codebook_share,
        }

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> AdditiveWeight:
        """Read what `pack`, `shared` and `header` wrote."""
        out_features, positions = header["out_features"], header["positions"]
        codes = [
            unpack_bits(tensors[f"codes.{k}"], width, (out_features, groups))
            for k, (groups, width) in enumerate(
                zip(header["groups"], header["code_bits"], strict=True)
            )
        ]
        source = shared if header["codebook_set"] is not None else tensors
        codebooks = [
            {
                name.rsplit(".", 1)[1]: source[name]
                for name in sorted(source)
                if name.startswith(f"codebooks.{k}.")
            }
            for k in range(len(codes))
        ]
        stored = torch.empty(0, dtype=torch.int64)
        if header["reordered"]:
            width = index_bits(positions)
            stored = unpack_bits(tensors["order"], width, (header["reordered"],))
        return cls(
            out_features=out_features,
            in_features=header["in_features"],
            code=AdditiveCode(codes, tensors["scales"].float()),
            codebooks=codebooks,
            order=_complete_order(stored, positions),
            reordered=header["reordered"],
            codebook_set=header["codebook_set"],
            codebook_share=header["codebook_share"],
        )

    def _widths(self) -> list[int]:
        """Bits of one code of each codebook."""
        return [index_bits(len(parts["entries"])) for parts in self.codebooks]

    def _codebook_tensors(self) -> dict[str, Tensor]:
        return {
            f"codebooks.{k}.{name}": part
            for k, parts in enumerate(self.codebooks)
            for name, part in parts.items()
        }


def _complete_order(stored: Tensor, positions: int) -> Tensor:
    """Stored leading positions, then all other channels in their natural order."""
    rest = torch.ones(positions, dtype=torch.bool)
    rest[stored] = False
    return torch.cat([stored, rest.nonzero()[:, 0]])
