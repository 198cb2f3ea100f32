"""Weights as signs with a scale for each group: BiLLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.vq.binarize import signed
from crvq.vq.split_binary import CONCENTRATED, RESIDUAL, SALIENT, SPARSE
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount
from crvq.weights.entropy import mask_entropy_bits
from crvq.weights.quantized import QuantizedWeight


@dataclass
class SplitBinaryWeight(QuantizedWeight):
    """``μ + α b``, plus ``α' b'`` in salient columns; scales for each row of a block of columns.

    (BiLLM, arXiv 2402.04291.) Other weights belong to one of two groups, marked by a bitmap.
    """

    format: ClassVar[str] = "split_binary"

    block: int
    """Columns that share scales."""
    salient: Tensor
    """Salient columns, ``(in,)``, bool."""
    signs: Tensor
    """``(out, in)``, bool; True is plus."""
    second_signs: Tensor
    """``(out, in)``, bool; of salient columns only."""
    sparse: Tensor | None
    """Weights of the sparse group, ``(out, in)``, bool; None: there is one group only."""
    scales: Tensor
    """``(out, blocks, 4)``: concentrated, sparse, salient, residual; float32 that float16 holds."""
    centres: Tensor | None
    """``(out, blocks, 3)``: concentrated, sparse, salient; None: all are zero."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.signs.shape

    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32."""
        blocks = torch.arange(self.in_features, device=self.signs.device) // self.block
        sparse = torch.zeros_like(self.signs) if self.sparse is None else self.sparse
        scales = self.scales[:, blocks]

        def of_group(parts: Tensor) -> Tensor:
            plain = torch.where(sparse, parts[..., SPARSE], parts[..., CONCENTRATED])
            return torch.where(self.salient, parts[..., SALIENT], plain)

        centre = 0.0 if self.centres is None else of_group(self.centres[:, blocks])
        values = centre + of_group(scales) * signed(self.signs)
        return values + self.salient * scales[..., RESIDUAL] * signed(self.second_signs)

    def bits(self) -> BitCount:
        """Signs and group bitmap (codes); float16 scales and centres; the columns' bitmap."""
        salient = int(self.salient.sum())
        others = self.out_features * (self.in_features - salient)
        codes = packed_bytes(self.out_features * self.in_features, 1)
        codes += packed_bytes(self.out_features * salient, 1)
        codes += packed_bytes(others, 1) if self.sparse is not None else 0
        used_scales, used_centres = self._used()
        numbers = int(used_scales.sum())
        numbers += int(used_centres.sum()) if self.centres is not None else 0
        return BitCount(
            codes=8.0 * codes,
            scales=16.0 * self.out_features * numbers,
            other=8.0 * packed_bytes(self.in_features, 1),
        )

    def entropy_bits(self) -> float:
        """Of signs, second signs and the group bitmap, each a source of its own."""
        total = mask_entropy_bits(self.signs)
        total += mask_entropy_bits(self.second_signs[:, self.salient])
        if self.sparse is not None:
            total += mask_entropy_bits(self.sparse[:, ~self.salient])
        return total

    def bits_as_published(self) -> float:
        """2 bits for a salient weight and 1 for any other (section 4.1): nothing else counted."""
        salient = int(self.salient.sum())
        return float(self.out_features * (self.in_features + salient))

    def pack(self) -> dict[str, Tensor]:
        """Bitmaps, and the scales and centres that any weight has."""
        used_scales, used_centres = self._used()
        tensors = {
            "salient": pack_bits(self.salient, 1),
            "signs": pack_bits(self.signs, 1),
            "second_signs": pack_bits(self.second_signs[:, self.salient], 1),
            "scales": self.scales[:, used_scales].half(),
        }
        if self.sparse is not None:
            tensors["sparse"] = pack_bits(self.sparse[:, ~self.salient], 1)
        if self.centres is not None:
            tensors["centres"] = self.centres[:, used_centres].half()
        return tensors

    def header(self) -> dict[str, Any]:
        """Shape, block and what is there."""
        return {
            "format": self.format,
            "out_features": self.out_features,
            "in_features": self.in_features,
            "block": self.block,
            "splitting": self.sparse is not None,
            "centred": self.centres is not None,
        }

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> SplitBinaryWeight:
        """Read what `pack` and `header` wrote."""
        shape = header["out_features"], header["in_features"]
        salient = unpack_bits(tensors["salient"], 1, (shape[1],)).bool()
        number, device = int(salient.sum()), salient.device
        blocks = -(-shape[1] // header["block"])
        second = torch.zeros(shape, dtype=torch.bool, device=device)
        second[:, salient] = unpack_bits(tensors["second_signs"], 1, (shape[0], number)).bool()
        sparse = centres = None
        if header["splitting"]:
            sparse = torch.zeros(shape, dtype=torch.bool, device=device)
            others = (shape[0], shape[1] - number)
            sparse[:, ~salient] = unpack_bits(tensors["sparse"], 1, others).bool()
        if header["centred"]:
            centres = torch.zeros(shape[0], blocks, 3, device=device)
        weight = cls(
            block=header["block"],
            salient=salient,
            signs=unpack_bits(tensors["signs"], 1, shape).bool(),
            second_signs=second,
            sparse=sparse,
            scales=torch.zeros(shape[0], blocks, 4, device=device),
            centres=centres,
        )
        used_scales, used_centres = weight._used()
        weight.scales[:, used_scales] = tensors["scales"].float()
        if centres is not None:
            centres[:, used_centres] = tensors["centres"].float()
        return weight

    def _used(self) -> tuple[Tensor, Tensor]:
        """Which of a block's scales, ``(blocks, 4)``, and centres, ``(blocks, 3)``, are stored.

        A block without salient columns has no scales for them; one of nothing else, no others.
        """
        padding = -self.in_features % self.block
        salient = torch.nn.functional.pad(self.salient, (0, padding)).view(-1, self.block)
        others = torch.nn.functional.pad(~self.salient, (0, padding)).view(-1, self.block)
        some, plain = salient.any(1), others.any(1)
        sparse = plain if self.sparse is not None else torch.zeros_like(plain)
        return torch.stack([plain, sparse, some, some], 1), torch.stack([plain, sparse, some], 1)
