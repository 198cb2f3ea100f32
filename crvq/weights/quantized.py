"""What every quantized weight can do, whatever method made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from crvq.registry import Registry
from crvq.vq.storage import clipped
from crvq.weights.bits import BitCount
from crvq.weights.fields import Field, FormatError, Sizes, check_fields, count_bits

FORMATS: Registry[type[QuantizedWeight]] = Registry("format")
"""Weight formats by the name that headers give them."""


class QuantizedWeight(ABC):
    """A quantized ``(out, in)`` weight: methods make it, checkpoints store it, models use it.

    A format is a subclass with its own ``format`` name, under which it is read back. It declares
    ``header_type`` and `stored_fields`; `pack`, `header`, `unpack`, `bits` and all checks follow.
    How it is trained, if it is, stands in the same file (see `crvq.weights.trainable`).
    """

    format: ClassVar[str]
    header_type: ClassVar[type[Sizes]]
    """The typed header."""
    out_features: int
    in_features: int

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - passed on as given
        super().__init_subclass__(**kwargs)
        # A subclass that inherits its format must not take its parent's place in the registry.
        if "format" in cls.__dict__:
            FORMATS.add(cls.format, cls)

    @abstractmethod
    def dequantize(self) -> Tensor:
        """Return the weight ``(out, in)`` in float32, natural column order."""

    @classmethod
    @abstractmethod
    def stored_fields(cls, sizes: Any) -> list[Field]:  # noqa: ANN401 - the format's own Sizes
        """Return every stored tensor of a weight of these sizes."""

    @abstractmethod
    def sizes(self) -> Sizes:
        """Return the header of this weight."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """Return the value of each stored field by name: integers or bools, and numbers."""

    @classmethod
    @abstractmethod
    def from_values(cls, sizes: Any, values: Mapping[str, Tensor]) -> Self:  # noqa: ANN401
        """Return the weight that values of all stored fields describe.

        Raises:
            FormatError: values contradict each other or the sizes.
        """

    @classmethod
    def upgraded(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return a header with the sizes that checkpoints of format version 1 leave to tensors.

        Raises:
            FormatError: a tensor that a size must be read from is missing or malformed.
        """
        return dict(header)

    @classmethod
    def count(cls, sizes: Sizes) -> BitCount:
        """Return the bits of a weight of these sizes; none is needed."""
        return count_bits(cls.stored_fields(sizes), sizes.share)

    def bits(self) -> BitCount:
        """Return the bits of everything that is stored; shared parts by this weight's share."""
        return self.count(self.sizes())

    def entropy_bits(self) -> float | None:
        """Return the bits of the codes after ideal order-0 entropy coding; None: no codes.

        Comparable with ``bits().codes``; see `crvq.weights.entropy`.
        """
        return None

    def bits_as_published(self) -> float | None:
        """Return bits as the method's authors count them, if they leave parts out; else None."""
        return None

    def header(self) -> dict[str, Any]:
        """Return what JSON must say for `unpack` to read the tensors."""
        return {"format": self.format, **self.sizes().model_dump()}

    def pack(self) -> dict[str, Tensor]:
        """Return the tensors that hold this weight on disk, without those that `shared` holds."""
        sizes, values = self.sizes(), self.values()
        fields = self.stored_fields(sizes)
        if sizes.shared_set is not None:
            fields = [field for field in fields if not field.shared]
        return {field.name: field.pack(values[field.name]) for field in fields}

    def shared(self) -> tuple[str, dict[str, Tensor]] | None:
        """Return the set's name and the tensors that its weights store once; None: no set."""
        sizes = self.sizes()
        if sizes.shared_set is None:
            return None
        values = self.values()
        fields = [field for field in self.stored_fields(sizes) if field.shared]
        return sizes.shared_set, {field.name: field.pack(values[field.name]) for field in fields}

    def clipped(self) -> dict[str, int]:
        """Count, by stored field, numbers at the end of float16's range: weights were clipped."""
        values = self.values()
        halves = [f.name for f in self.stored_fields(self.sizes()) if f.stored_dtype == torch.half]
        counts = {name: clipped(values[name]) for name in halves}
        return {name: count for name, count in counts.items() if count}

    @classmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        shape: tuple[int, int] | None = None,
    ) -> Self:
        """Return the weight that `header`, `pack` and `shared` describe.

        Args:
            header: as JSON holds it.
            tensors: as `pack` returns them.
            shared: of the set that the header names; may hold more than this weight uses.
            shape: ``(out, in)`` that the model has there, if it is known.

        Raises:
            FormatError: header and tensors do not describe a weight of this format and shape.
        """
        sizes = cls.header_type.from_header(cls.upgraded(header, {**shared, **tensors}))
        if shape is not None and shape != (sizes.out_features, sizes.in_features):
            raise FormatError(
                "out_features",
                f"the header says {sizes.out_features} x {sizes.in_features}, while the model has "
                f"{shape[0]} x {shape[1]} there",
            )
        fields = cls.stored_fields(sizes)
        found = dict(tensors)
        if sizes.shared_set is not None:
            names = {field.name for field in fields if field.shared}
            found |= {name: tensor for name, tensor in shared.items() if name in names}
        check_fields(sizes, fields, found)
        values = {field.name: field.unpack(found[field.name]) for field in fields}
        return cls.from_values(sizes, values)
