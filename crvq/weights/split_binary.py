"""Weights as signs with a scale for each group: BiLLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.binary import CONCENTRATED, RESIDUAL, SALIENT, SPARSE, signed
from crvq.weights.bitpack import unpack_bits
from crvq.weights.entropy import mask_entropy_bits
from crvq.weights.fields import Count, Field, FormatError, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable

Number = Annotated[int, Limits(ge=0, le=2**31 - 1)]


class SplitBinarySizes(Sizes):
    """The header of a `SplitBinaryWeight`."""

    block: Count
    splitting: bool
    centred: bool
    salient: Number
    """Salient columns."""
    row_scales: Number
    """Scales that are stored for each row."""
    row_centres: Number

    @model_validator(mode="after")
    def _consistent(self) -> SplitBinarySizes:
        self.span(self.block, "block")
        if self.salient > self.in_features:
            raise ValueError(f"salient={self.salient} of {self.in_features} columns")
        return self


@dataclass
class SplitBinaryWeight(QuantizedWeight):
    """``μ + α b``, plus ``α' b'`` in salient columns; scales for each row of a block of columns.

    (BiLLM, arXiv 2402.04291.) Other weights belong to one of two groups, marked by a bitmap.
    """

    format: ClassVar[str] = "split_binary"
    header_type: ClassVar[type[Sizes]] = SplitBinarySizes

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
        """Add each group's centre, signs times scales, and second signs in salient columns."""
        blocks = torch.arange(self.in_features, device=self.signs.device) // self.block
        sparse = torch.zeros_like(self.signs) if self.sparse is None else self.sparse
        scales = self.scales[:, blocks]

        def of_group(parts: Tensor) -> Tensor:
            plain = torch.where(sparse, parts[..., SPARSE], parts[..., CONCENTRATED])
            return torch.where(self.salient, parts[..., SALIENT], plain)

        centre = 0.0 if self.centres is None else of_group(self.centres[:, blocks])
        values = centre + of_group(scales) * signed(self.signs)
        return values + self.salient * scales[..., RESIDUAL] * signed(self.second_signs)

    @classmethod
    def stored_fields(cls, sizes: SplitBinarySizes) -> list[Field]:
        """Signs and group bitmap (codes); float16 scales and centres; the columns' bitmap."""
        rows, columns, salient = sizes.out_features, sizes.in_features, sizes.salient
        fields = [
            Field("salient", "other", (columns,), 1),
            Field("signs", "codes", (rows, columns), 1),
            Field("second_signs", "codes", (rows, salient), 1),
            Field("scales", "scales", (rows, sizes.row_scales)),
        ]
        if sizes.splitting:
            fields.append(Field("sparse", "codes", (rows, columns - salient), 1))
        if sizes.centred:
            fields.append(Field("centres", "scales", (rows, sizes.row_centres)))
        return fields

    @classmethod
    def sizes_of(
        cls, out_features: int, salient: Tensor, block: int, splitting: bool, centred: bool
    ) -> SplitBinarySizes:
        """Return the sizes of a weight with these salient columns (bool, ``(in,)``)."""
        used_scales, used_centres = _used(salient, block, splitting)
        return SplitBinarySizes(
            out_features=out_features,
            in_features=len(salient),
            block=block,
            splitting=splitting,
            centred=centred,
            salient=int(salient.sum()),
            row_scales=int(used_scales.sum()),
            row_centres=int(used_centres.sum()) if centred else 0,
        )

    def sizes(self) -> SplitBinarySizes:
        """Shape, and how many columns, scales and centres there are."""
        splitting, centred = self.sparse is not None, self.centres is not None
        return self.sizes_of(self.out_features, self.salient, self.block, splitting, centred)

    def values(self) -> dict[str, Tensor]:
        """Bitmaps, and the scales and centres that any weight has."""
        used_scales, used_centres = _used(self.salient, self.block, self.sparse is not None)
        values = {
            "salient": self.salient,
            "signs": self.signs,
            "second_signs": self.second_signs[:, self.salient],
            "scales": self.scales[:, used_scales],
        }
        if self.sparse is not None:
            values["sparse"] = self.sparse[:, ~self.salient]
        if self.centres is not None:
            values["centres"] = self.centres[:, used_centres]
        return values

    @classmethod
    def from_values(
        cls, sizes: SplitBinarySizes, values: Mapping[str, Tensor]
    ) -> SplitBinaryWeight:
        """Put what is stored in its place; the rest is zero.

        Raises:
            FormatError: the bitmap of salient columns contradicts the sizes.
        """
        shape, salient = (sizes.out_features, sizes.in_features), values["salient"].bool()
        found = cls.sizes_of(shape[0], salient, sizes.block, sizes.splitting, sizes.centred)
        if found != sizes:
            raise FormatError("salient", f"marks {found.salient} columns, header: {sizes.salient}")
        used_scales, used_centres = _used(salient, sizes.block, sizes.splitting)
        blocks, device = len(used_scales), salient.device
        second = torch.zeros(shape, dtype=torch.bool, device=device)
        second[:, salient] = values["second_signs"].bool()
        scales = torch.zeros(shape[0], blocks, 4, device=device)
        scales[:, used_scales] = values["scales"].float()
        sparse = centres = None
        if sizes.splitting:
            sparse = torch.zeros(shape, dtype=torch.bool, device=device)
            sparse[:, ~salient] = values["sparse"].bool()
        if sizes.centred:
            centres = torch.zeros(shape[0], blocks, 3, device=device)
            centres[:, used_centres] = values["centres"].float()
        return cls(
            block=sizes.block,
            salient=salient,
            signs=values["signs"].bool(),
            second_signs=second,
            sparse=sparse,
            scales=scales,
            centres=centres,
        )

    @classmethod
    def upgraded(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Count salient columns and numbers per row, which version 1 leaves to the tensors."""
        if "salient" in header:
            return dict(header)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        numbers = {"row_scales": "scales", "row_centres": "centres"}
        counted = {
            size: shapes[name][1] if len(shapes.get(name, ())) == 2 else 0
            for size, name in numbers.items()
        }
        mask, columns = tensors.get("salient"), header.get("in_features")
        if mask is None or mask.dtype != torch.uint8 or not isinstance(columns, int):
            raise FormatError("salient", "the tensor is missing or no bitmap")
        if not 0 < columns <= 8 * mask.numel() or mask.ndim != 1 or 8 * len(mask) - columns >= 8:
            raise FormatError("salient", f"{mask.numel()} bytes for {columns!r} columns")
        marked = int(unpack_bits(mask, 1, (columns,)).sum())
        return {**header, **counted, "salient": marked}

    def entropy_bits(self) -> float:
        """Of signs, second signs and the group bitmap, each with its own frequencies."""
        total = mask_entropy_bits(self.signs)
        total += mask_entropy_bits(self.second_signs[:, self.salient])
        if self.sparse is not None:
            total += mask_entropy_bits(self.sparse[:, ~self.salient])
        return total

    def bits_as_published(self) -> float:
        """2 bits for a salient weight and 1 for any other (section 4.1): nothing else counted."""
        salient = int(self.salient.sum())
        return float(self.out_features * (self.in_features + salient))


def _used(salient: Tensor, block: int, splitting: bool) -> tuple[Tensor, Tensor]:
    """Return which of a block's scales, ``(blocks, 4)``, and centres, ``(blocks, 3)``, are stored.

    A block without salient columns has no scales for them; one of nothing else, no others.
    """
    padding = -len(salient) % block
    some = torch.nn.functional.pad(salient, (0, padding)).view(-1, block).any(1)
    plain = torch.nn.functional.pad(~salient, (0, padding)).view(-1, block).any(1)
    sparse = plain if splitting else torch.zeros_like(plain)
    return torch.stack([plain, sparse, some, some], 1), torch.stack([plain, sparse, some], 1)


@trainable.register
def _(weight: SplitBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableSplitBinary(weight, device)


class TrainableSplitBinary(TrainableNumbers[SplitBinaryWeight]):
    """Scales and centres are free; signs and masks stay as they are."""

    numbers = ("scales", "centres")
