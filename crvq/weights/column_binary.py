"""Whole columns on grids, all others as signs between three scale vectors: PTQ1.61's weight."""

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
from crvq.weights.fields import Field, FormatError, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable


class ColumnBinarySizes(Sizes):
    """The header of a `ColumnBinaryWeight`."""

    salient_bits: Annotated[int, Limits(ge=1, le=8)]
    salient: Annotated[int, Limits(ge=0)]
    """Salient columns; none need no grid, all need no signs."""

    @model_validator(mode="after")
    def _consistent(self) -> ColumnBinarySizes:
        if self.salient > self.in_features:
            raise ValueError(f"salient={self.salient} of {self.in_features} columns")
        return self


@dataclass
class ColumnBinaryWeight(QuantizedWeight):
    """``(a_o b_oj + m_o) c_j``, or ``(q - zero_o) step_o`` in salient columns (2502.13179)."""

    format: ClassVar[str] = "column_binary"
    header_type: ClassVar[type[Sizes]] = ColumnBinarySizes

    salient_bits: int
    salient: Tensor
    """``(in,)``, bool."""
    signs: Tensor
    """Of the other columns, ``(out, in - salient)``, bool; True is plus."""
    codes: Tensor
    """Of salient columns, ``(out, salient)``, int64."""
    scales: Tensor
    """a, ``(out,)``, float32 that float16 holds, as all numbers here."""
    means: Tensor
    """m, ``(out,)``."""
    columns: Tensor
    """c, ``(in - salient,)``."""
    steps: Tensor
    """``(out,)``."""
    zeros: Tensor
    """Zero points, ``(out,)``, int64."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = len(self.signs), len(self.salient)

    def dequantize(self) -> Tensor:
        """Decode both sorts of columns and put them in their places."""
        coarse = signed(self.signs) * self.scales[:, None] + self.means[:, None]
        fine = grid_values(self.codes, self.steps[:, None], self.zeros[:, None])
        # Salient columns first, in natural order each: the inverse permutation puts them back.
        places = (~self.salient).to(torch.uint8).argsort(stable=True).argsort()
        return torch.cat((fine, coarse * self.columns), 1).index_select(1, places)

    @classmethod
    def stored_fields(cls, sizes: ColumnBinarySizes) -> list[Field]:
        """A bitmap of columns; signs with their scale vectors; codes, steps and zero points."""
        rows, salient, width = sizes.out_features, sizes.salient, sizes.salient_bits
        fields = [Field("salient", "other", (sizes.in_features,), 1)]
        others = sizes.in_features - salient
        if others:
            fields.append(Field("signs", "codes", (rows, others), 1))
            fields += [Field(name, "scales", (rows,)) for name in ("scales", "means")]
            fields.append(Field("columns", "scales", (others,)))
        if salient:
            fields.append(Field("codes", "codes", (rows, salient), width))
            fields.append(Field("steps", "scales", (rows,)))
            fields.append(Field("zeros", "scales", (rows,), width))
        return fields

    def sizes(self) -> ColumnBinarySizes:
        """Shape, width of codes, and how many columns are salient."""
        return ColumnBinarySizes(
            out_features=self.out_features,
            in_features=self.in_features,
            salient_bits=self.salient_bits,
            salient=self.codes.shape[1],
        )

    def values(self) -> dict[str, Tensor]:
        """Return everything; what has no field is left."""
        names = ("salient", "signs", "scales", "means", "columns", "codes", "steps", "zeros")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_values(
        cls, sizes: ColumnBinarySizes, values: Mapping[str, Tensor]
    ) -> ColumnBinaryWeight:
        """Return the weight.

        Raises:
            FormatError: the bitmap does not mark as many columns as the header says.
        """
        salient = values["salient"].bool()
        if int(salient.sum()) != sizes.salient:
            raise FormatError(
                "salient", f"marks {int(salient.sum())} columns, header: {sizes.salient}"
            )
        rows, others = sizes.out_features, sizes.in_features - sizes.salient
        nothing = {
            "signs": torch.zeros(rows, 0),
            "scales": torch.zeros(rows),
            "means": torch.zeros(rows),
            "columns": torch.zeros(others),
            "codes": torch.zeros(rows, 0, dtype=torch.int64),
            "steps": torch.ones(rows),
            "zeros": torch.zeros(rows, dtype=torch.int64),
        }
        found = {**nothing, **values}
        return cls(
            salient_bits=sizes.salient_bits,
            salient=salient,
            signs=found["signs"].bool(),
            codes=found["codes"],
            scales=found["scales"].float(),
            means=found["means"].float(),
            columns=found["columns"].float(),
            steps=found["steps"].float(),
            zeros=found["zeros"],
        )

    def entropy_bits(self) -> float:
        """Of signs and codes, each with its own frequencies."""
        return mask_entropy_bits(self.signs) + code_entropy_bits(self.codes)

    def bits_as_published(self) -> float:
        """Signs and codes alone: 0.8 + 0.2 x 4 = 1.6 per weight in the paper."""
        return float(self.signs.numel() + self.codes.numel() * self.salient_bits)


@trainable.register
def _(weight: ColumnBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableColumnBinary(weight, device)


class TrainableColumnBinary(TrainableNumbers[ColumnBinaryWeight]):
    """Scale vectors and steps are free; signs, codes and the mask stay as they are."""

    numbers = ("scales", "means", "columns", "steps")
