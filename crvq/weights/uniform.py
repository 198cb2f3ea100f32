"""Weights on uniform grids: RTN's and GPTQ's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from crvq.vq.uniform_grid import grid_values, storable_steps
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Count, Field, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import PartKind, Parts, TrainableWeight, trainable

_STEPS = "steps"


class UniformSizes(Sizes):
    """The header of a `UniformWeight`."""

    code_bits: Annotated[int, Limits(ge=1, le=16)]
    group_size: Count
    reordered: bool

    @model_validator(mode="after")
    def _consistent(self) -> UniformSizes:
        self.span(self.group_size, "group_size")
        return self


@dataclass
class UniformWeight(QuantizedWeight):
    """``Ŵ[o, π[p]] = (q[o, p] - zero[o, g]) * step[o, g]`` with ``g = p // group_size``."""

    format: ClassVar[str] = "uniform"
    header_type: ClassVar[type[Sizes]] = UniformSizes

    code_bits: int
    group_size: int
    codes: Tensor
    """``(out, in)``, int64, in coded column order."""
    steps: Tensor
    """``(out, groups)``, float32 that float16 holds."""
    zeros: Tensor
    """Zero points ``(out, groups)``, int64, ``code_bits`` wide."""
    order: Tensor | None = None
    """π, ``(in,)``: coded position p holds channel π[p]; None: the natural order, not stored."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.codes.shape

    def dequantize(self) -> Tensor:
        """Decode each group's grid, and put columns back into their natural order."""
        group = torch.arange(self.in_features, device=self.codes.device) // self.group_size
        coded = grid_values(self.codes, self.steps[:, group], self.zeros[:, group])
        if self.order is None:
            return coded
        natural = torch.empty_like(coded)
        natural[:, self.order] = coded
        return natural

    @classmethod
    def stored_fields(cls, sizes: UniformSizes) -> list[Field]:
        """Codes, float16 steps and packed zero points (both are scales), and the permutation."""
        rows, columns, width = sizes.out_features, sizes.in_features, sizes.code_bits
        grids = rows, -(-columns // sizes.group_size)
        fields = [
            Field("codes", "codes", (rows, columns), width),
            Field("steps", "scales", grids),
            Field("zeros", "scales", grids, width),
        ]
        if sizes.reordered:
            index = index_bits(columns)
            fields.append(
                Field("order", "permutation", (columns,), index, below=columns, distinct=True)
            )
        return fields

    def sizes(self) -> UniformSizes:
        """Shape, code width, and whether there is an order."""
        return UniformSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            code_bits=self.code_bits,
            group_size=self.group_size,
            reordered=self.order is not None,
        )

    def values(self) -> dict[str, Tensor]:
        """Codes, grids and the order."""
        values = {"codes": self.codes, "steps": self.steps, "zeros": self.zeros}
        return values if self.order is None else {**values, "order": self.order}

    @classmethod
    def from_values(cls, sizes: UniformSizes, values: Mapping[str, Tensor]) -> UniformWeight:
        """Return the weight."""
        return cls(
            code_bits=sizes.code_bits,
            group_size=sizes.group_size,
            codes=values["codes"],
            steps=values["steps"].float(),
            zeros=values["zeros"],
            order=values.get("order"),
        )

    def entropy_bits(self) -> float:
        """Of all codes together."""
        return code_entropy_bits(self.codes)


@trainable.register
def _(weight: UniformWeight, device: torch.device) -> TrainableWeight:
    return TrainableUniform(weight, device)


class TrainableUniform(TrainableWeight[UniformWeight]):
    """``Ŵ[o, π[p]] = (q[o, p] - zero[o, g]) * step[o, g]`` with the steps free."""

    def load(self, weight: UniformWeight) -> None:
        """Subtract zero points from codes once."""
        self._weight = weight
        group = torch.arange(weight.in_features, device=weight.codes.device) // weight.group_size
        self._levels = (weight.codes - weight.zeros[:, group]).to(self.device, torch.int16)
        self._group = group.to(self.device)
        self._order = None if weight.order is None else weight.order.to(self.device)
        self._places = None if self._order is None else self._order.argsort()
        self.parts = {_STEPS: weight.steps.to(self.device)}

    def kind(self, name: str) -> PartKind:
        """Steps are scales."""
        return "scales"

    def dense(self, parts: Parts) -> Tensor:
        """Decode with these steps."""
        steps = parts[_STEPS]
        coded = self._levels.to(steps.dtype) * steps.index_select(1, self._group)
        return coded if self._places is None else coded.index_select(1, self._places)

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """Return a sum over the columns of each row's group."""
        coded = gradient if self._order is None else gradient.index_select(1, self._order)
        found = coded * self._levels.to(gradient.dtype)
        padded = functional.pad(found, (0, -found.shape[1] % self._weight.group_size))
        return {_STEPS: padded.unflatten(1, (-1, self._weight.group_size)).sum(2)}

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Float16, positive."""
        return storable_steps(value)

    def quantized(self, parts: Parts) -> UniformWeight:
        """Same codes and zero points."""
        steps = self.stored(_STEPS, parts[_STEPS]).to(self._weight.steps.device)
        return replace(self._weight, steps=steps)
