"""Weights as one or more planes of trits: the ternary methods' quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.weights.bitpack import BYTE_VALUES, pack_trits, trit_bytes, unpack_trits
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Count, Field, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class TernarySizes(Sizes):
    """The header of a `TernaryWeight`."""

    planes: Annotated[int, Limits(ge=1, le=4)]
    group_size: Count
    centred: bool
    reordered: bool

    @model_validator(mode="after")
    def _consistent(self) -> TernarySizes:
        self.span(self.group_size, "group_size")
        return self


@dataclass
class TernaryWeight(QuantizedWeight):
    """``Ŵ[o, π[p]] = μ[o, g] + Σ_k α_k[o, g] T_k[o, p]`` with ``g = p // group_size``."""

    format: ClassVar[str] = "ternary"
    header_type: ClassVar[type[Sizes]] = TernarySizes

    group_size: int
    trits: Tensor
    """``(planes, out, in)``, int8: -1, 0 or 1, in coded column order."""
    scales: Tensor
    """Of each plane, ``(planes, out, groups)``, float32 that float16 holds."""
    centres: Tensor | None = None
    """``(out, groups)``; None: all are zero and not stored."""
    order: Tensor | None = None
    """π, ``(in,)``: coded position p holds channel π[p]; None: natural order, not stored."""

    def __post_init__(self) -> None:
        _, self.out_features, self.in_features = self.trits.shape

    def dequantize(self) -> Tensor:
        """Add up planes and centres, and put columns back into their natural order."""
        group = torch.arange(self.in_features, device=self.trits.device) // self.group_size
        scales = self.scales[:, :, group]
        coded = (self.trits.to(scales.dtype) * scales).sum(0)
        if self.centres is not None:
            coded = coded + self.centres[:, group]
        return coded if self.order is None else coded.index_select(1, self.order.argsort())

    @classmethod
    def stored_fields(cls, sizes: TernarySizes) -> list[Field]:
        """Trits, five to a byte; float16 scales and centres; the permutation."""
        rows, columns, planes = sizes.out_features, sizes.in_features, sizes.planes
        groups = -(-columns // sizes.group_size)
        stored = (trit_bytes(planes * rows * columns),)
        fields = [
            Field("trits", "codes", stored, 8, below=BYTE_VALUES),
            Field("scales", "scales", (planes, rows, groups)),
        ]
        if sizes.centred:
            fields.append(Field("centres", "scales", (rows, groups)))
        if sizes.reordered:
            index = index_bits(columns)
            fields.append(
                Field("order", "permutation", (columns,), index, below=columns, distinct=True)
            )
        return fields

    def sizes(self) -> TernarySizes:
        """Shape, planes, and which numbers there are."""
        return TernarySizes(
            out_features=self.out_features,
            in_features=self.in_features,
            planes=len(self.trits),
            group_size=self.group_size,
            centred=self.centres is not None,
            reordered=self.order is not None,
        )

    def values(self) -> dict[str, Tensor]:
        """Bytes of trits, scales, centres and the order."""
        values = {"trits": pack_trits(self.trits), "scales": self.scales}
        if self.centres is not None:
            values["centres"] = self.centres
        return values if self.order is None else {**values, "order": self.order}

    @classmethod
    def from_values(cls, sizes: TernarySizes, values: Mapping[str, Tensor]) -> TernaryWeight:
        """Return the weight."""
        shape = (sizes.planes, sizes.out_features, sizes.in_features)
        return cls(
            group_size=sizes.group_size,
            trits=unpack_trits(values["trits"], shape),
            scales=values["scales"].float(),
            centres=values["centres"].float() if sizes.centred else None,
            order=values.get("order"),
        )

    def entropy_bits(self) -> float:
        """Of the trits, each plane a source of its own."""
        return sum(code_entropy_bits(plane + 1) for plane in self.trits)

    def bits_as_published(self) -> float:
        """1.58 bits per weight, as ternary papers state it: no scales, and one plane or more."""
        return 1.58 * self.out_features * self.in_features


@trainable.register
def _(weight: TernaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableTernary(weight, device)


class TrainableTernary(TrainableNumbers[TernaryWeight]):
    """Scales and centres are free; trits stay as they are."""

    numbers = ("scales", "centres")
