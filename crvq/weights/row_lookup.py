"""Weights looked up in a table per row, a few kept apart: SqueezeLLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Field, Sizes
from crvq.weights.partial_binary import mask_fields, mask_from_values, mask_values
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import PartKind, TrainableNumbers, TrainableWeight, trainable


class RowLookupSizes(Sizes):
    """The header of a `RowLookupWeight`."""

    code_bits: Annotated[int, Limits(ge=1, le=8)]
    sparse: Annotated[int, Limits(ge=0)]
    """Weights that are kept in float16."""

    @model_validator(mode="after")
    def _consistent(self) -> RowLookupSizes:
        if self.sparse > self.out_features * self.in_features:
            raise ValueError(f"sparse={self.sparse} of {self.out_features} x {self.in_features}")
        return self


@dataclass
class RowLookupWeight(QuantizedWeight):
    """``table[o, codes[o, j]]``, or a float16 number where the mask says so (arXiv 2306.07629)."""

    format: ClassVar[str] = "row_lookup"
    header_type: ClassVar[type[Sizes]] = RowLookupSizes

    codes: Tensor
    """``(out, in)``, int64; 0 for kept weights, whose code is stored too, as in the authors'."""
    tables: Tensor
    """``(out, 2^bits)``, float32 that float16 holds."""
    mask: Tensor
    """Weights that are kept, ``(out, in)``, bool."""
    kept: Tensor
    """Their values, row by row, ``(number,)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.codes.shape

    def dequantize(self) -> Tensor:
        """Look up each weight in its row's table, and put kept weights in their places."""
        dense = self.tables.gather(1, self.codes)
        return dense.masked_scatter(self.mask, self.kept)

    @classmethod
    def stored_fields(cls, sizes: RowLookupSizes) -> list[Field]:
        """Codes, float16 tables; kept weights' places (bitmap or sorted) and float16 values."""
        shape = rows, _ = sizes.out_features, sizes.in_features
        fields = [
            Field("codes", "codes", shape, sizes.code_bits),
            Field("tables", "codebooks", (rows, 2**sizes.code_bits)),
        ]
        if sizes.sparse:
            fields += mask_fields(shape, sizes.sparse)
            fields.append(Field("kept", "other", (sizes.sparse,)))
        return fields

    def sizes(self) -> RowLookupSizes:
        """Shape, code width, and how many weights are kept."""
        return RowLookupSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            code_bits=self.tables.shape[1].bit_length() - 1,
            sparse=len(self.kept),
        )

    def values(self) -> dict[str, Tensor]:
        """Codes, tables, and the mask in both forms."""
        own = {"codes": self.codes, "tables": self.tables, "kept": self.kept}
        return {**mask_values(self.mask), **own}

    @classmethod
    def from_values(cls, sizes: RowLookupSizes, values: Mapping[str, Tensor]) -> RowLookupWeight:
        """Return the weight.

        Raises:
            FormatError: the mask does not mark as many weights as the header says.
        """
        shape = sizes.out_features, sizes.in_features
        mask, kept = torch.zeros(shape, dtype=torch.bool), torch.zeros(0)
        if sizes.sparse:
            mask = mask_from_values(values, shape, sizes.sparse)
            kept = values["kept"].float()
        return cls(values["codes"], values["tables"].float(), mask, kept)

    def entropy_bits(self) -> float:
        """Of all codes together; places of kept weights are left as they are."""
        return code_entropy_bits(self.codes)

    def bits_as_published(self) -> float:
        """Index bits alone, as the paper's "3 bit": no tables, no kept weights."""
        return float(self.codes.numel() * self.sizes().code_bits)


@trainable.register
def _(weight: RowLookupWeight, device: torch.device) -> TrainableWeight:
    return TrainableRowLookup(weight, device)


class TrainableRowLookup(TrainableNumbers[RowLookupWeight]):
    """Tables and kept weights are free; codes and places stay as they are."""

    numbers = ("tables", "kept")

    def kind(self, name: str) -> PartKind:
        """Tables are codebooks; kept weights count as scales."""
        return "codebooks" if name == "tables" else "scales"
