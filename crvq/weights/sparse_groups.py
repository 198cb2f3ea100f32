"""Whole groups of weights left out, the others on uniform grids: GQSA's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.uniform_grid import grid_values
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Count, Field, FormatError, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class SparseGroupsSizes(Sizes):
    """The header of a `SparseGroupsWeight`."""

    code_bits: Annotated[int, Limits(ge=1, le=8)]
    group_size: Count
    kept: Annotated[int, Limits(ge=0)]
    """Groups that are not left out."""

    @model_validator(mode="after")
    def _consistent(self) -> SparseGroupsSizes:
        self.span(self.group_size, "group_size")
        groups = self.out_features * -(-self.in_features // self.group_size)
        if self.kept > groups:
            raise ValueError(f"kept={self.kept} of {groups} groups")
        return self


@dataclass
class SparseGroupsWeight(QuantizedWeight):
    """``(q - zero) * step`` in kept groups, 0 in all others (arXiv 2412.17560).

    A last group that is narrower is padded; codes of the padding are stored.
    """

    format: ClassVar[str] = "sparse_groups"
    header_type: ClassVar[type[Sizes]] = SparseGroupsSizes

    in_features: int
    code_bits: int
    kept: Tensor
    """``(out, groups)``, bool."""
    codes: Tensor
    """Of kept groups row by row, ``(kept, group_size)``, int64."""
    steps: Tensor
    """``(kept,)``, float32 that float16 holds."""
    zeros: Tensor
    """Zero points ``(kept,)``, int64."""

    def __post_init__(self) -> None:
        self.out_features = len(self.kept)

    def dequantize(self) -> Tensor:
        """Decode kept groups and put them in their places."""
        values = grid_values(self.codes, self.steps[:, None], self.zeros[:, None])
        dense = values.new_zeros(*self.kept.shape, self.codes.shape[1])
        dense = dense.masked_scatter(self.kept[..., None], values)
        return dense.flatten(1)[:, : self.in_features]

    @classmethod
    def stored_fields(cls, sizes: SparseGroupsSizes) -> list[Field]:
        """A bitmap of groups; codes, float16 steps and zero points of those that are kept."""
        groups = -(-sizes.in_features // sizes.group_size)
        return [
            Field("kept", "other", (sizes.out_features, groups), 1),
            Field("codes", "codes", (sizes.kept, sizes.group_size), sizes.code_bits),
            Field("steps", "scales", (sizes.kept,)),
            Field("zeros", "scales", (sizes.kept,), sizes.code_bits),
        ]

    def sizes(self) -> SparseGroupsSizes:
        """Shape, code width, group size, and how many groups are kept."""
        return SparseGroupsSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            code_bits=self.code_bits,
            group_size=self.codes.shape[1],
            kept=len(self.codes),
        )

    def values(self) -> dict[str, Tensor]:
        """The bitmap, codes and grids."""
        own = {"codes": self.codes, "steps": self.steps, "zeros": self.zeros}
        return {"kept": self.kept, **own}

    @classmethod
    def from_values(
        cls, sizes: SparseGroupsSizes, values: Mapping[str, Tensor]
    ) -> SparseGroupsWeight:
        """Return the weight.

        Raises:
            FormatError: the bitmap does not mark as many groups as the header says.
        """
        kept = values["kept"].bool()
        if int(kept.sum()) != sizes.kept:
            raise FormatError("kept", f"marks {int(kept.sum())} groups, header: {sizes.kept}")
        codes, steps, zeros = values["codes"], values["steps"].float(), values["zeros"]
        return cls(sizes.in_features, sizes.code_bits, kept, codes, steps, zeros)

    def entropy_bits(self) -> float:
        """Of all codes together; the bitmap is left as it is."""
        return code_entropy_bits(self.codes)


@trainable.register
def _(weight: SparseGroupsWeight, device: torch.device) -> TrainableWeight:
    return TrainableSparseGroups(weight, device)


class TrainableSparseGroups(TrainableNumbers[SparseGroupsWeight]):
    """Steps are free; codes, zero points and the bitmap stay as they are."""

    numbers = ("steps",)
