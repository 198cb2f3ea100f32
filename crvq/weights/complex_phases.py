"""Two complex matrices of phases 1, i, -1, -i, in one or more stages: Fairy2i's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from torch import Tensor

from crvq.vq.widely_linear import phase_values, to_real
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Field, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class ComplexPhasesSizes(Sizes):
    """The header of a `ComplexPhasesWeight`."""

    stages: Annotated[int, Limits(ge=1, le=4)]


@dataclass
class ComplexPhasesWeight(QuantizedWeight):
    """The real form of (U, V), each ``Σ_stages scale · phase`` (arXiv 2512.02901).

    Odd sizes are padded to even ones; the padding's codes are stored.
    """

    format: ClassVar[str] = "complex_phases"
    header_type: ClassVar[type[Sizes]] = ComplexPhasesSizes

    out_features: int
    in_features: int
    codes: Tensor
    """``(stages, 2, ⌈out / 2⌉, ⌈in / 2⌉)``, int64: 0 to 3 for 1, i, -1, -i."""
    scales: Tensor
    """Of real and imaginary phases in a row, ``(stages, 2, ⌈out / 2⌉, 2)``, float16 in float32."""

    def dequantize(self) -> Tensor:
        """Add up the stages and return to real numbers."""
        real = to_real(phase_values(self.codes, self.scales))
        return real[: self.out_features, : self.in_features]

    @classmethod
    def stored_fields(cls, sizes: ComplexPhasesSizes) -> list[Field]:
        """Phases of 2 bits, float16 scales."""
        rows, columns = -(-sizes.out_features // 2), -(-sizes.in_features // 2)
        return [
            Field("codes", "codes", (sizes.stages, 2, rows, columns), 2),
            Field("scales", "scales", (sizes.stages, 2, rows, 2)),
        ]

    def sizes(self) -> ComplexPhasesSizes:
        """Shape and stages."""
        return ComplexPhasesSizes(
            out_features=self.out_features, in_features=self.in_features, stages=len(self.codes)
        )

    def values(self) -> dict[str, Tensor]:
        """Phases and scales."""
        return {"codes": self.codes, "scales": self.scales}

    @classmethod
    def from_values(
        cls, sizes: ComplexPhasesSizes, values: Mapping[str, Tensor]
    ) -> ComplexPhasesWeight:
        """Return the weight."""
        return cls(sizes.out_features, sizes.in_features, values["codes"], values["scales"].float())

    def entropy_bits(self) -> float:
        """Of the phases, each stage a source of its own."""
        return sum(code_entropy_bits(stage) for stage in self.codes)

    def bits_as_published(self) -> float:
        """1 bit per weight and stage: no scales."""
        return float(len(self.codes) * self.out_features * self.in_features)


@trainable.register
def _(weight: ComplexPhasesWeight, device: torch.device) -> TrainableWeight:
    return TrainableComplexPhases(weight, device)


class TrainableComplexPhases(TrainableNumbers[ComplexPhasesWeight]):
    """Scales are free; phases stay as they are."""

    numbers = ("scales",)
