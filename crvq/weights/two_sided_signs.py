"""Signs between a scale per row and a scale per column: OneBit's and NanoQuant's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crvq.vq.binary import signed
from crvq.weights.entropy import mask_entropy_bits
from crvq.weights.fields import Count, Field, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class BinaryFactorsSizes(Sizes):
    """The header of a `BinaryFactorsWeight`."""

    rank: Count


@dataclass
class TwoSidedSignsWeight(QuantizedWeight):
    """``rows[o] columns[j] s[o, j]`` (OneBit, arXiv 2402.11295)."""

    format: ClassVar[str] = "two_sided_signs"
    header_type: ClassVar[type[Sizes]] = Sizes

    signs: Tensor
    """``(out, in)``, bool; True is plus."""
    rows: Tensor
    """``(out,)``, float32 that float16 holds."""
    columns: Tensor
    """``(in,)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.signs.shape

    def dequantize(self) -> Tensor:
        """Scale the signs from both sides."""
        return self.rows[:, None] * signed(self.signs) * self.columns

    @classmethod
    def stored_fields(cls, sizes: Sizes) -> list[Field]:
        """Signs and float16 scales."""
        return [
            Field("signs", "codes", (sizes.out_features, sizes.in_features), 1),
            *_scale_fields(sizes),
        ]

    def sizes(self) -> Sizes:
        """The shape."""
        return Sizes(out_features=self.out_features, in_features=self.in_features)

    def values(self) -> dict[str, Tensor]:
        """Signs and scales."""
        return {"signs": self.signs, "rows": self.rows, "columns": self.columns}

    @classmethod
    def from_values(cls, sizes: Sizes, values: Mapping[str, Tensor]) -> TwoSidedSignsWeight:
        """Return the weight."""
        return cls(values["signs"].bool(), values["rows"].float(), values["columns"].float())

    def entropy_bits(self) -> float:
        """Of the signs."""
        return mask_entropy_bits(self.signs)

    def bits_as_published(self) -> float:
        """1 bit per weight: the scales are not counted."""
        return float(self.signs.numel())


@dataclass
class BinaryFactorsWeight(QuantizedWeight):
    """``rows[o] columns[j] Σ_k left[o, k] right[j, k]``, factors ±1 (NanoQuant, 2602.06694)."""

    format: ClassVar[str] = "binary_factors"
    header_type: ClassVar[type[Sizes]] = BinaryFactorsSizes

    left: Tensor
    """``(out, rank)``, bool; True is plus."""
    right: Tensor
    """``(in, rank)``, bool."""
    rows: Tensor
    """``(out,)``, float32 that float16 holds."""
    columns: Tensor
    """``(in,)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = len(self.left), len(self.right)

    def dequantize(self) -> Tensor:
        """Multiply the factors, whose product holds whole numbers, and scale from both sides."""
        return self.rows[:, None] * (signed(self.left) @ signed(self.right).T) * self.columns

    @classmethod
    def stored_fields(cls, sizes: BinaryFactorsSizes) -> list[Field]:
        """Signs of both factors and float16 scales."""
        return [
            Field("left", "codes", (sizes.out_features, sizes.rank), 1),
            Field("right", "codes", (sizes.in_features, sizes.rank), 1),
            *_scale_fields(sizes),
        ]

    def sizes(self) -> BinaryFactorsSizes:
        """Shape and rank."""
        return BinaryFactorsSizes(
            out_features=self.out_features, in_features=self.in_features, rank=self.left.shape[1]
        )

    def values(self) -> dict[str, Tensor]:
        """Factors and scales."""
        own = {"left": self.left, "right": self.right}
        return {**own, "rows": self.rows, "columns": self.columns}

    @classmethod
    def from_values(
        cls, sizes: BinaryFactorsSizes, values: Mapping[str, Tensor]
    ) -> BinaryFactorsWeight:
        """Return the weight."""
        left, right = values["left"].bool(), values["right"].bool()
        return cls(left, right, values["rows"].float(), values["columns"].float())

    def entropy_bits(self) -> float:
        """Of both factors, each a source of its own."""
        return mask_entropy_bits(self.left) + mask_entropy_bits(self.right)


def _scale_fields(sizes: Sizes) -> list[Field]:
    return [
        Field("rows", "scales", (sizes.out_features,)),
        Field("columns", "scales", (sizes.in_features,)),
    ]


@trainable.register
def _(weight: TwoSidedSignsWeight, device: torch.device) -> TrainableWeight:
    return TrainableTwoSided(weight, device)


@trainable.register
def _(weight: BinaryFactorsWeight, device: torch.device) -> TrainableWeight:
    return TrainableTwoSided(weight, device)


class TrainableTwoSided(TrainableNumbers[TwoSidedSignsWeight | BinaryFactorsWeight]):
    """Row and column scales are free; signs stay as they are."""

    numbers = ("rows", "columns")
