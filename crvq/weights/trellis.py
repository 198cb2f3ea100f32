"""Tiles of a weight as paths through a trellis with a computed code: QTIP's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.trellis import TILE, TrellisCode, code_table, from_tiles, states_of
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Field, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class TrellisSizes(Sizes):
    """The header of a `TrellisWeight`."""

    code: TrellisCode
    code_bits: Annotated[int, Limits(ge=1, le=4)]
    state_bits: Annotated[int, Limits(ge=2, le=16)]

    @model_validator(mode="after")
    def _consistent(self) -> TrellisSizes:
        if self.state_bits <= self.code_bits:
            raise ValueError(f"state_bits={self.state_bits} for codes of {self.code_bits} bits")
        return self

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles from left to right, and from top to bottom; the last ones may be padded."""
        return -(-self.in_features // TILE), -(-self.out_features // TILE)


@dataclass
class TrellisWeight(QuantizedWeight):
    """``s_o f(state)``: each weight's state is the L bits that end with its code (2406.11235)."""

    format: ClassVar[str] = "trellis"
    header_type: ClassVar[type[Sizes]] = TrellisSizes

    in_features: int
    code: TrellisCode
    code_bits: int
    state_bits: int
    codes: Tensor
    """``(column tiles, row tiles, 256)``, int64: a tile is a circle, its rows one after another."""
    scales: Tensor
    """``(out,)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features = len(self.scales)

    def dequantize(self) -> Tensor:
        """Compute each state's number, put tiles in their places, and scale rows."""
        table = code_table(self.code, self.state_bits).to(self.codes.device)
        numbers = table[states_of(self.codes, self.code_bits, self.state_bits)]
        return from_tiles(numbers, self.out_features, self.in_features) * self.scales[:, None]

    @classmethod
    def stored_fields(cls, sizes: TrellisSizes) -> list[Field]:
        """Codes, those of padding included, and float16 scales."""
        return [
            Field("codes", "codes", (*sizes.tiles, TILE * TILE), sizes.code_bits),
            Field("scales", "scales", (sizes.out_features,)),
        ]

    def sizes(self) -> TrellisSizes:
        """Shape, code, its bits and the register's."""
        return TrellisSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            code=self.code,
            code_bits=self.code_bits,
            state_bits=self.state_bits,
        )

    def values(self) -> dict[str, Tensor]:
        """Codes and scales."""
        return {"codes": self.codes, "scales": self.scales}

    @classmethod
    def from_values(cls, sizes: TrellisSizes, values: Mapping[str, Tensor]) -> TrellisWeight:
        """Return the weight: any codes are a path."""
        shape = sizes.in_features, sizes.code, sizes.code_bits, sizes.state_bits
        return cls(*shape, values["codes"], values["scales"].float())

    def entropy_bits(self) -> float:
        """Of all codes together."""
        return code_entropy_bits(self.codes)

    def bits_as_published(self) -> float:
        """Codes alone: the authors keep one scale per matrix and draw signs from a seed."""
        return self.bits().codes


@trainable.register
def _(weight: TrellisWeight, device: torch.device) -> TrainableWeight:
    return TrainableTrellis(weight, device)


class TrainableTrellis(TrainableNumbers[TrellisWeight]):
    """Row scales are free; codes stay, and the numbers they stand for are computed."""

    numbers = ("scales",)
