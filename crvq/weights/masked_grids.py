"""Marked weights on a wide grid, the others on a narrow one or left out: ratio_opt's and OPQ's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.uniform_grid import grid_values
from crvq.weights.entropy import code_entropy_bits, mask_entropy_bits
from crvq.weights.fields import Count, Field, Sizes
from crvq.weights.partial_binary import mask_fields, mask_from_values, mask_values
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class MaskedGridsSizes(Sizes):
    """The header of a `MaskedGridsWeight`."""

    marked_bits: Annotated[int, Limits(ge=1, le=8)]
    other_bits: Annotated[int, Limits(ge=0, le=8)]
    """0: other weights are zero."""
    group_size: Count
    """Columns of a row that share the narrow grid."""
    per_layer: bool
    """One wide grid for the layer instead of one per row."""
    marked: Annotated[int, Limits(ge=0)]
    """Marked weights."""

    @model_validator(mode="after")
    def _consistent(self) -> MaskedGridsSizes:
        self.span(self.group_size, "group_size")
        if self.marked > self.out_features * self.in_features:
            raise ValueError(f"marked={self.marked} of {self.out_features} x {self.in_features}")
        return self


@dataclass
class MaskedGridsWeight(QuantizedWeight):
    """``(q - zero) step`` with one grid for marked weights and one for others."""

    format: ClassVar[str] = "masked_grids"
    header_type: ClassVar[type[Sizes]] = MaskedGridsSizes

    marked_bits: int
    other_bits: int
    group_size: int
    mask: Tensor
    """``(out, in)``, bool."""
    codes: Tensor
    """``(out, in)``, int64, each of the grid that the mask says."""
    marked_steps: Tensor
    """``(out,)`` or ``(1,)``, float32 that float16 holds."""
    marked_zeros: Tensor
    """Likewise, int64."""
    steps: Tensor
    """``(out, groups)``, float32 that float16 holds."""
    zeros: Tensor
    """Likewise, int64."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.mask.shape

    def dequantize(self) -> Tensor:
        """Decode both grids; the mask chooses."""
        fine = grid_values(self.codes, self.marked_steps[:, None], self.marked_zeros[:, None])
        if not self.other_bits:
            return fine * self.mask
        group = torch.arange(self.in_features, device=self.mask.device) // self.group_size
        coarse = grid_values(self.codes, self.steps[:, group], self.zeros[:, group])
        return torch.where(self.mask, fine, coarse)

    @classmethod
    def stored_fields(cls, sizes: MaskedGridsSizes) -> list[Field]:
        """The mask (other), codes of both sorts row by row, and grids that are used."""
        shape = rows, columns = sizes.out_features, sizes.in_features
        others, grids = rows * columns - sizes.marked, (rows, -(-columns // sizes.group_size))
        fields = []
        if sizes.marked:
            wide, one = sizes.marked_bits, (1 if sizes.per_layer else rows,)
            fields += mask_fields(shape, sizes.marked)
            fields.append(Field("marked_codes", "codes", (sizes.marked,), wide))
            fields.append(Field("marked_steps", "scales", one))
            fields.append(Field("marked_zeros", "scales", one, wide))
        if others and sizes.other_bits:
            fields.append(Field("codes", "codes", (others,), sizes.other_bits))
            fields.append(Field("steps", "scales", grids))
            fields.append(Field("zeros", "scales", grids, sizes.other_bits))
        return fields

    def sizes(self) -> MaskedGridsSizes:
        """Shape, widths, sharing, and how many weights are marked."""
        return MaskedGridsSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            marked_bits=self.marked_bits,
            other_bits=self.other_bits,
            group_size=self.group_size,
            per_layer=len(self.marked_steps) == 1 < self.out_features,
            marked=int(self.mask.sum()),
        )

    def values(self) -> dict[str, Tensor]:
        """Return the mask in both forms, codes of both sorts, and the grids."""
        return {
            **mask_values(self.mask),
            "marked_codes": self.codes[self.mask],
            "marked_steps": self.marked_steps,
            "marked_zeros": self.marked_zeros,
            "codes": self.codes[~self.mask],
            "steps": self.steps,
            "zeros": self.zeros,
        }

    @classmethod
    def from_values(
        cls, sizes: MaskedGridsSizes, values: Mapping[str, Tensor]
    ) -> MaskedGridsWeight:
        """Put codes in their places; what is not stored is zero.

        Raises:
            FormatError: the mask has not so many marks.
        """
        shape = rows, columns = sizes.out_features, sizes.in_features
        one, grids = 1 if sizes.per_layer else rows, (rows, -(-columns // sizes.group_size))
        weight = cls(
            marked_bits=sizes.marked_bits,
            other_bits=sizes.other_bits,
            group_size=sizes.group_size,
            mask=torch.zeros(shape, dtype=torch.bool),
            codes=torch.zeros(shape, dtype=torch.int64),
            marked_steps=torch.ones(one),
            marked_zeros=torch.zeros(one, dtype=torch.int64),
            steps=torch.ones(grids),
            zeros=torch.zeros(grids, dtype=torch.int64),
        )
        if sizes.marked:
            weight.mask = mask_from_values(values, shape, sizes.marked)
            weight.codes[weight.mask] = values["marked_codes"]
            weight.marked_steps = values["marked_steps"].float()
            weight.marked_zeros = values["marked_zeros"]
        if "codes" in values:
            weight.codes[~weight.mask] = values["codes"]
            weight.steps, weight.zeros = values["steps"].float(), values["zeros"]
        return weight

    def entropy_bits(self) -> float:
        """Of the mask and of both sorts of codes, each with its own frequencies."""
        others = self.codes[~self.mask] if self.other_bits else self.codes[:0]
        marked = code_entropy_bits(self.codes[self.mask]) + code_entropy_bits(others)
        return mask_entropy_bits(self.mask) + marked

    def bits_as_published(self) -> float:
        """Codes and grids by their widths, without the mask."""
        bits, fields = 0.0, self.stored_fields(self.sizes())
        for field in fields:
            if field.name not in ("bitmap", "numbers", "places"):
                bits += 8 * field.stored_bytes
        return bits


@trainable.register
def _(weight: MaskedGridsWeight, device: torch.device) -> TrainableWeight:
    return TrainableMaskedGrids(weight, device)


class TrainableMaskedGrids(TrainableNumbers[MaskedGridsWeight]):
    """Steps are free; codes, zero points and the mask stay as they are."""

    numbers = ("marked_steps", "steps")
