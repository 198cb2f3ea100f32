"""Stored fields: what a weight format declares once, and everything that follows from it.

A format declares its `Sizes` (a typed header) and the `Field` list that these sizes lead to. From
that follow packing, the header, unpacking, bits (also for shapes alone, without a weight), and the
checks of a file from an unknown source. Nothing larger than the stored bytes is allocated before
sizes, dtypes and shapes are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Limits
from torch import Tensor

from crvq.errors import CheckpointError
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits
from crvq.weights.bits import BitCount, BitPart

Count = Annotated[int, Limits(ge=1, le=2**31 - 1)]
"""A size in a header: at least one."""

# The fewest bits that any format stores: one bit for a vector of 64 weights.
_MOST_WEIGHTS_PER_BYTE = 512
# Below this size memory is no concern, however few bytes are stored.
_SMALL_WEIGHT = 1 << 20
_WIDE_SPAN = 4096


class FormatError(CheckpointError):
    """A stored weight is not what its format declares."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Sizes(BaseModel):
    """The header of a stored weight: every size and option that its fields follow from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    out_features: Count
    in_features: Count

    @property
    def share(self) -> float:
        """Part of the bits of shared fields that this weight answers for."""
        return 1.0

    @property
    def shared_set(self) -> str | None:
        """Name of the set that shared fields belong to; None: they are this weight's own."""
        return None

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """Check a header read from a file.

        Raises:
            FormatError: a size is missing, unknown or out of its range.
        """
        try:
            return cls.model_validate({k: v for k, v in header.items() if k != "format"})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "header"
            raise FormatError(place, f"{first['msg']} (seen: {_shown(first['input'])})") from None

    def span(self, columns: int, name: str) -> int:
        """Check a number of columns that share something: no wider than the weight, or small.

        Raises:
            ValueError: it is so wide that padding to it would take memory.
        """
        if columns > max(self.in_features, _WIDE_SPAN):
            raise ValueError(f"{name}={columns} for {self.in_features} columns")
        return columns


@dataclass(frozen=True)
class Field:
    """One stored tensor.

    Integers with a ``width`` are packed without gaps, row by row, least significant bit first:
    element ``i`` of the flattened tensor lies at bits ``i * width`` to ``(i + 1) * width``. Row r
    of a field of shape ``(rows, columns)`` hence starts at bit ``r * columns * width``, a whole
    byte wherever ``columns * width`` is a multiple of 8 (see `crvq.weights.bitpack.unpack_rows`).
    """

    name: str
    part: BitPart
    """What its bits count as."""
    shape: tuple[int, ...]
    width: int | None = None
    """Bits of each integer; None: numbers stored as ``dtype``."""
    dtype: torch.dtype = torch.float16
    below: int | None = None
    """Integers must be below this; None: all that the width holds are allowed."""
    distinct: bool = False
    """Integers must differ from each other: a permutation, or the beginning of one."""
    shared: bool = False
    """Belongs to the set of weights that the header names, if it names one."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the tensor on disk."""
        if self.width is None:
            return self.shape
        return (packed_bytes(prod(self.shape), self.width),)

    @property
    def stored_dtype(self) -> torch.dtype:
        """Dtype of the tensor on disk."""
        return self.dtype if self.width is None else torch.uint8

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk."""
        return prod(self.stored_shape) * self.stored_dtype.itemsize

    def pack(self, value: Tensor) -> Tensor:
        """Return the tensor that is stored for a value.

        Raises:
            ValueError: the value has another shape, or integers that do not fit.
        """
        if tuple(value.shape) != self.shape:
            raise ValueError(f"{self.name} has shape {tuple(value.shape)} instead of {self.shape}")
        return value.to(self.dtype) if self.width is None else pack_bits(value, self.width)

    def check_stored(self, tensor: Tensor) -> None:
        """Check dtype and shape of a tensor read from a file.

        Raises:
            FormatError: they are not the declared ones.
        """
        if tensor.dtype != self.stored_dtype or tuple(tensor.shape) != self.stored_shape:
            raise FormatError(
                self.name,
                f"stored as {_dtype(tensor.dtype)} {tuple(tensor.shape)}, while the header says "
                f"{_dtype(self.stored_dtype)} {self.stored_shape}",
            )

    def unpack(self, tensor: Tensor) -> Tensor:
        """Return the value that a stored tensor holds: int64, or numbers in their stored dtype.

        Raises:
            FormatError: wrong dtype or shape, a number that is not finite, an integer out of range,
                or one that occurs twice where all must differ.
        """
        self.check_stored(tensor)
        if self.width is None:
            if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
                raise FormatError(self.name, "holds NaN or infinity")
            return tensor
        value = unpack_bits(tensor, self.width, self.shape)
        limit = 1 << self.width if self.below is None else self.below
        if value.numel() and int(value.max()) >= limit:
            raise FormatError(self.name, f"holds {int(value.max())}; the largest is {limit - 1}")
        if self.distinct and len(value.unique()) != value.numel():
            raise FormatError(self.name, "holds a number twice: not a permutation")
        return value


def index_bits(values: int) -> int:
    """Return ⌈log2 values⌉, the bits of an index; 0 for a single value."""
    return ceil(log2(values)) if values > 1 else 0


def count_bits(fields: Iterable[Field], share: float = 1.0) -> BitCount:
    """Return the bits of fields by part, shared ones times ``share``."""
    own: dict[str, int] = {}
    shared: dict[str, int] = {}
    for field in fields:
        sums = shared if field.shared else own
        sums[field.part] = sums.get(field.part, 0) + 8 * field.stored_bytes
    parts = own.keys() | shared.keys()
    return BitCount(
        **{part: float(own.get(part, 0) + shared.get(part, 0) * share) for part in parts}
    )


def check_fields(sizes: Sizes, fields: list[Field], tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors are exactly those of the fields, before anything is unpacked.

    Raises:
        FormatError: a tensor is missing, unknown, or has another dtype or shape; or the header
            claims far more weights than so few bytes can hold.
    """
    for field in fields:
        if field.name not in tensors:
            raise FormatError(field.name, "the tensor is missing")
        field.check_stored(tensors[field.name])
    for name in tensors.keys() - {field.name for field in fields}:
        raise FormatError(name, "the header says nothing of this tensor")
    weights, stored = sizes.out_features * sizes.in_features, sum(f.stored_bytes for f in fields)
    if weights > max(_SMALL_WEIGHT, _MOST_WEIGHTS_PER_BYTE * stored):
        raise FormatError(
            "out_features",
            f"{sizes.out_features} x {sizes.in_features} weights do not fit into {stored} bytes",
        )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
