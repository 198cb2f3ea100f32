"""Weights as signs, a few of them on a fine grid: PB-LLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.binary import signed
from crvq.vq.uniform_grid import grid_values
from crvq.weights.entropy import code_entropy_bits, mask_entropy_bits
from crvq.weights.fields import Count, Field, FormatError, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class PartialBinarySizes(Sizes):
    """The header of a `PartialBinaryWeight`."""

    salient_bits: Annotated[int, Limits(ge=1, le=16)]
    group_size: Count
    salient: Annotated[int, Limits(ge=0)]
    """Salient weights; none need no grid, all need no signs."""

    @model_validator(mode="after")
    def _consistent(self) -> PartialBinarySizes:
        self.span(self.group_size, "group_size")
        if self.salient > self.out_features * self.in_features:
            raise ValueError(f"salient={self.salient} of {self.out_features} x {self.in_features}")
        return self


@dataclass
class PartialBinaryWeight(QuantizedWeight):
    """``α b``, or ``(q - zero) step`` for salient weights (PB-LLM, arXiv 2310.00034, section 3)."""

    format: ClassVar[str] = "partial_binary"
    header_type: ClassVar[type[Sizes]] = PartialBinarySizes

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
        """Decode salient weights on their row's grid, others as a sign times a scale."""
        group = torch.arange(self.in_features, device=self.signs.device) // self.group_size
        fine = grid_values(self.codes, self.steps[:, None], self.zeros[:, None])
        return torch.where(self.salient, fine, signed(self.signs) * self.scales[:, group])

    @classmethod
    def stored_fields(cls, sizes: PartialBinarySizes) -> list[Field]:
        """Signs, salient codes and mask (codes); float16 scales; one float16 step and zero per row.

        Signs and codes have no place for the other sort of weight: where a row begins in them
        follows from the mask's count of the rows before.
        """
        shape = rows, columns = sizes.out_features, sizes.in_features
        number, width = sizes.salient, sizes.salient_bits
        fields = []
        if number < rows * columns:
            groups = -(-columns // sizes.group_size)
            fields.append(Field("signs", "codes", (rows * columns - number,), 1))
            fields.append(Field("scales", "scales", (rows, groups)))
        if number:
            fields += mask_fields(shape, number)
            fields.append(Field("codes", "codes", (number,), width))
            fields.append(Field("steps", "scales", (rows,)))
            fields.append(Field("zeros", "scales", (rows,), width))
        return fields

    def sizes(self) -> PartialBinarySizes:
        """Shape, widths and how many weights are salient."""
        return PartialBinarySizes(
            out_features=self.out_features,
            in_features=self.in_features,
            salient_bits=self.salient_bits,
            group_size=self.group_size,
            salient=int(self.salient.sum()),
        )

    def values(self) -> dict[str, Tensor]:
        """Return the mask in both forms, and signs and codes of the weights that have them."""
        return {
            "signs": self.signs[~self.salient],
            "scales": self.scales,
            **mask_values(self.salient),
            "codes": self.codes[self.salient],
            "steps": self.steps,
            "zeros": self.zeros,
        }

    @classmethod
    def from_values(
        cls, sizes: PartialBinarySizes, values: Mapping[str, Tensor]
    ) -> PartialBinaryWeight:
        """Put signs and codes in their places; the rest is zero."""
        shape = rows, columns = sizes.out_features, sizes.in_features
        weight = cls(
            salient_bits=sizes.salient_bits,
            group_size=sizes.group_size,
            salient=torch.zeros(shape, dtype=torch.bool),
            signs=torch.zeros(shape, dtype=torch.bool),
            codes=torch.zeros(shape, dtype=torch.int64),
            scales=torch.zeros(rows, -(-columns // sizes.group_size)),
            steps=torch.ones(rows),
            zeros=torch.zeros(rows, dtype=torch.int64),
        )
        if sizes.salient:
            weight.salient = mask_from_values(values, shape, sizes.salient)
            weight.codes[weight.salient] = values["codes"]
            weight.steps, weight.zeros = values["steps"].float(), values["zeros"]
        if sizes.salient < rows * columns:
            weight.signs[~weight.salient] = values["signs"].bool()
            weight.scales = values["scales"].float()
        return weight

    def entropy_bits(self) -> float:
        """Of the mask, the signs and the salient codes, each with its own frequencies."""
        return (
            mask_entropy_bits(self.salient)
            + mask_entropy_bits(self.signs[~self.salient])
            + code_entropy_bits(self.codes[self.salient])
        )

    def bits_as_published(self) -> float:
        """Salient weights by their codes, others 1 bit (section 4.1): no mask, no scales."""
        salient = int(self.salient.sum())
        return float(salient * self.salient_bits + self.signs.numel() - salient)


def mask_fields(shape: tuple[int, int], marked: int) -> list[Field]:
    """Return how a mask is stored: a bitmap, or each row's number and places if that is smaller.

    Places are sorted by row and cost ``⌈log2 in⌉`` bits each.

    Args:
        shape: ``(out, in)``.
        marked: weights that are marked.
    """
    rows, columns = shape
    bitmap = [Field("bitmap", "codes", shape, 1)]
    places = [
        Field("numbers", "codes", (rows,), index_bits(columns + 1), below=columns + 1),
        Field("places", "codes", (marked,), index_bits(columns), below=columns),
    ]
    return min(bitmap, places, key=lambda fields: sum(field.stored_bytes for field in fields))


def mask_values(mask: Tensor) -> dict[str, Tensor]:
    """Return the values of either of `mask_fields`."""
    return {"bitmap": mask, "numbers": mask.sum(1), "places": mask.nonzero()[:, 1]}


def mask_from_values(values: Mapping[str, Tensor], shape: tuple[int, int], marked: int) -> Tensor:
    """Return the mask ``shape`` that values of `mask_fields` describe.

    Raises:
        FormatError: it has not so many marks.
    """
    if "bitmap" in values:
        mask = values["bitmap"].bool()
    else:
        numbers, places = values["numbers"], values["places"]
        if int(numbers.sum()) != marked:
            raise FormatError("numbers", f"add up to {int(numbers.sum())}; the header: {marked}")
        mask = torch.zeros(shape, dtype=torch.bool, device=places.device)
        mask[torch.arange(shape[0]).repeat_interleave(numbers), places] = True
    if int(mask.sum()) != marked:
        name = "bitmap" if "bitmap" in values else "places"
        raise FormatError(name, f"marks {int(mask.sum())} weights; the header says {marked}")
    return mask


@trainable.register
def _(weight: PartialBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainablePartialBinary(weight, device)


class TrainablePartialBinary(TrainableNumbers[PartialBinaryWeight]):
    """Scales and steps are free; signs, the mask and codes stay as they are."""

    numbers = ("scales", "steps")
