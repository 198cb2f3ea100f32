"""Signs with a scale per row and a scale per column: ARB-LLM_RC's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor

from crvq.vq.binary import signed
from crvq.weights.entropy import mask_entropy_bits
from crvq.weights.fields import Count, Field, FormatError, Sizes
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import TrainableNumbers, TrainableWeight, trainable

Number = Annotated[int, Limits(ge=0, le=2**31 - 1)]


class RowColumnSizes(Sizes):
    """The header of a `RowColumnBinaryWeight`."""

    block: Count
    splitting: bool
    salient: Number
    """Salient columns."""
    row_scales: Number
    """Scales that are stored for each row."""

    @model_validator(mode="after")
    def _consistent(self) -> RowColumnSizes:
        self.span(self.block, "block")
        if self.salient > self.in_features:
            raise ValueError(f"salient={self.salient} of {self.in_features} columns")
        return self


@dataclass
class RowColumnBinaryWeight(QuantizedWeight):
    """``α[o, b, g] β[j, g] s``, plus a second such term in salient columns (arXiv 2410.03129).

    g is 0 or 1 for each weight, marked by a bitmap of the whole weight, salient columns included.
    """

    format: ClassVar[str] = "row_column_binary"
    header_type: ClassVar[type[Sizes]] = RowColumnSizes

    block: int
    """Columns that share row scales."""
    salient: Tensor
    """Salient columns, ``(in,)``, bool."""
    signs: Tensor
    """``(out, in)``, bool; True is plus."""
    second_signs: Tensor
    """``(out, in)``, bool; of salient columns only."""
    groups: Tensor | None
    """``(out, in)``, bool: weights of group 1; None: there is one group only."""
    rows: Tensor
    """``(out, blocks, kinds, 2, groups)``: of plain and salient columns, first and second sign."""
    columns: Tensor
    """``(in, 2, groups)``: of the first and second sign; second ones of salient columns only."""

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.signs.shape

    def dequantize(self) -> Tensor:
        """Add up the terms of first and second signs."""
        blocks = torch.arange(self.in_features, device=self.signs.device) // self.block
        # (out, in, 2, groups): row scales of each weight's block and kind of column.
        rows = self.rows[:, blocks, self.salient.long()]
        products = rows * self.columns
        chosen = products[..., 0]
        if self.groups is not None:
            chosen = torch.where(self.groups[..., None], products[..., 1], chosen)
        first = chosen[..., 0] * signed(self.signs)
        return first + chosen[..., 1] * signed(self.second_signs) * self.salient

    @classmethod
    def stored_fields(cls, sizes: RowColumnSizes) -> list[Field]:
        """Signs and the group bitmap (codes); float16 scales; the bitmap of salient columns."""
        rows, columns, salient = sizes.out_features, sizes.in_features, sizes.salient
        groups = 2 if sizes.splitting else 1
        fields = [
            Field("salient", "other", (columns,), 1),
            Field("signs", "codes", (rows, columns), 1),
            Field("second_signs", "codes", (rows, salient), 1),
            Field("rows", "scales", (rows, sizes.row_scales)),
            Field("columns", "scales", (groups * (columns + salient),)),
        ]
        if sizes.splitting:
            fields.append(Field("groups", "codes", (rows, columns), 1))
        return fields

    @classmethod
    def sizes_of(
        cls, out_features: int, salient: Tensor, block: int, splitting: bool
    ) -> RowColumnSizes:
        """Return the sizes of a weight with these salient columns (bool, ``(in,)``)."""
        return RowColumnSizes(
            out_features=out_features,
            in_features=len(salient),
            block=block,
            splitting=splitting,
            salient=int(salient.sum()),
            row_scales=int(_used_rows(salient, block).sum()) * (2 if splitting else 1),
        )

    def sizes(self) -> RowColumnSizes:
        """Shape, and how many columns and row scales there are."""
        return self.sizes_of(self.out_features, self.salient, self.block, self.groups is not None)

    def values(self) -> dict[str, Tensor]:
        """Bitmaps, and the scales that any weight has."""
        values = {
            "salient": self.salient,
            "signs": self.signs,
            "second_signs": self.second_signs[:, self.salient],
            "rows": self.rows[:, _used_rows(self.salient, self.block)].flatten(1),
            "columns": self.columns[_used_columns(self.salient)].flatten(),
        }
        return values if self.groups is None else {**values, "groups": self.groups}

    @classmethod
    def from_values(
        cls, sizes: RowColumnSizes, values: Mapping[str, Tensor]
    ) -> RowColumnBinaryWeight:
        """Put what is stored in its place; the rest is zero.

        Raises:
            FormatError: the bitmap of salient columns contradicts the sizes.
        """
        salient, groups = values["salient"].bool(), 2 if sizes.splitting else 1
        found = cls.sizes_of(sizes.out_features, salient, sizes.block, sizes.splitting)
        if found != sizes:
            raise FormatError("salient", f"marks {found.salient} columns, header: {sizes.salient}")
        used, shape = _used_rows(salient, sizes.block), (sizes.out_features, sizes.in_features)
        rows = torch.zeros(shape[0], *used.shape, groups, device=salient.device)
        rows[:, used] = values["rows"].float().view(shape[0], -1, groups)
        columns = torch.zeros(shape[1], 2, groups, device=salient.device)
        columns[_used_columns(salient)] = values["columns"].float().view(-1, groups)
        second = torch.zeros(shape, dtype=torch.bool, device=salient.device)
        second[:, salient] = values["second_signs"].bool()
        return cls(
            block=sizes.block,
            salient=salient,
            signs=values["signs"].bool(),
            second_signs=second,
            groups=values["groups"].bool() if sizes.splitting else None,
            rows=rows,
            columns=columns,
        )

    def entropy_bits(self) -> float:
        """Of signs, second signs and the group bitmap, each a source of its own."""
        total = mask_entropy_bits(self.signs)
        total += mask_entropy_bits(self.second_signs[:, self.salient])
        return total + (0.0 if self.groups is None else mask_entropy_bits(self.groups))

    def bits_as_published(self) -> float:
        """2 bits for a salient weight and 1 for any other: no bitmap and no scale counted."""
        return float(self.out_features * (self.in_features + int(self.salient.sum())))


def _used_rows(salient: Tensor, block: int) -> Tensor:
    """Return which row scales are stored, ``(blocks, kinds, 2)``; see `rows`."""
    padding = -len(salient) % block
    some = torch.nn.functional.pad(salient, (0, padding)).view(-1, block).any(1)
    plain = torch.nn.functional.pad(~salient, (0, padding)).view(-1, block).any(1)
    none = torch.zeros_like(plain)
    return torch.stack([torch.stack([plain, none], 1), torch.stack([some, some], 1)], 1)


def _used_columns(salient: Tensor) -> Tensor:
    """Return which column scales are stored, ``(in, 2)``."""
    return torch.stack([torch.ones_like(salient), salient], 1)


@trainable.register
def _(weight: RowColumnBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableRowColumn(weight, device)


class TrainableRowColumn(TrainableNumbers[RowColumnBinaryWeight]):
    """Row and column scales are free; signs and bitmaps stay as they are."""

    numbers = ("rows", "columns")
