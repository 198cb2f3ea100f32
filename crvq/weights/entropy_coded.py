"""Codes of one uniform grid per row, stored as an entropy coder's stream: CERWU's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from torch import Tensor

from crvq.weights.entropy import code_entropy_bits
from crvq.weights.entropy_coder import PRECISION, decode, encode, lanes_of, stored_frequencies
from crvq.weights.fields import Field, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class EntropyCodedSizes(Sizes):
    """The header of an `EntropyCodedWeight`."""

    levels: Annotated[int, Limits(ge=3, le=255)]
    words: Annotated[int, Limits(ge=0, le=2**31 - 1)]
    """Of 16 bits, of the coded stream."""


@dataclass
class EntropyCodedWeight(QuantizedWeight):
    """``(q - (levels - 1) / 2) step_o``, codes in column-major order through rANS (2505.18758).

    What is stored is what a real coder makes of the codes, with its table of frequencies: the bits
    depend on the values.
    """

    format: ClassVar[str] = "entropy_coded"
    header_type: ClassVar[type[Sizes]] = EntropyCodedSizes

    levels: int
    codes: Tensor
    """``(out, in)``, int64, below ``levels``."""
    steps: Tensor
    """``(out,)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.codes.shape

    @cached_property
    def _coded(self) -> tuple[Tensor, Tensor, Tensor]:
        symbols = self.codes.T.flatten()
        frequencies = stored_frequencies(torch.bincount(symbols.cpu(), minlength=self.levels))
        return (frequencies, *encode(symbols, frequencies))

    def dequantize(self) -> Tensor:
        """Multiply signed codes by each row's step."""
        return (self.codes - self.levels // 2).float() * self.steps[:, None]

    @classmethod
    def stored_fields(cls, sizes: EntropyCodedSizes) -> list[Field]:
        """Stream and final states (codes), frequencies, float16 steps."""
        lanes = lanes_of(sizes.out_features * sizes.in_features)
        largest = 1 << PRECISION
        return [
            Field("words", "codes", (sizes.words,), 16),
            Field("states", "codes", (lanes, 2), 16),
            Field("frequencies", "codebooks", (sizes.levels,), PRECISION + 1, below=largest + 1),
            Field("steps", "scales", (sizes.out_features,)),
        ]

    def sizes(self) -> EntropyCodedSizes:
        """Shape, levels and the stream's length."""
        return EntropyCodedSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            levels=self.levels,
            words=len(self._coded[1]),
        )

    def values(self) -> dict[str, Tensor]:
        """Return the coded stream and the steps."""
        frequencies, words, states = self._coded
        coded = {"frequencies": frequencies, "words": words, "states": states}
        return {**coded, "steps": self.steps}

    @classmethod
    def from_values(
        cls, sizes: EntropyCodedSizes, values: Mapping[str, Tensor]
    ) -> EntropyCodedWeight:
        """Decode the stream.

        Raises:
            FormatError: it is not one of so many codes.
        """
        rows, columns = sizes.out_features, sizes.in_features
        words, states, frequencies = values["words"], values["states"], values["frequencies"]
        symbols = decode(words, states, frequencies, rows * columns)
        codes = symbols.view(columns, rows).T.contiguous()
        return cls(sizes.levels, codes, values["steps"].float())

    def entropy_bits(self) -> float:
        """Of all codes together: what the stream would take with exact frequencies."""
        return code_entropy_bits(self.codes)


@trainable.register
def _(weight: EntropyCodedWeight, device: torch.device) -> TrainableWeight:
    return TrainableEntropyCoded(weight, device)


class TrainableEntropyCoded(TrainableNumbers[EntropyCodedWeight]):
    """Steps are free; codes stay as they are."""

    numbers = ("steps",)
