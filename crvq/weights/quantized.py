"""What every quantized weight can do, whatever method made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from crvq.weights.bits import BitCount

_FORMATS: dict[str, type[QuantizedWeight]] = {}


class QuantizedWeight(ABC):
    """A quantized ``(out, in)`` weight: methods make it, checkpoints store it, models use it.

    A subclass sets ``format`` and is found again by that name when a checkpoint is read.
    """

    format: ClassVar[str]
    out_features: int
    in_features: int

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - passed on as given
        super().__init_subclass__(**kwargs)
        _FORMATS[cls.format] = cls

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weight ``(out, in)`` in float32, natural column order."""

    @abstractmethod
    def bits(self) -> BitCount:
        """Bits of everything that `pack` stores for this weight; shared parts by their share."""

    def entropy_bits(self) -> float | None:
        """Bits that the codes would take after ideal order-0 entropy coding; None: no codes.

        Comparable with ``bits().codes``; see `crvq.weights.entropy`.
        """
        return None

    def bits_as_published(self) -> float | None:
        """Bits as the method's authors count them, where they leave parts out; None: they don't."""
        return None

    @abstractmethod
    def pack(self) -> dict[str, Tensor]:
        """Tensors that hold this weight on disk, less what `shared` holds."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What JSON must say for `unpack` to read the tensors."""

    def shared(self) -> tuple[str, dict[str, Tensor]] | None:
        """A name and tensors that several weights store once, or None."""
        return None

    @classmethod
    @abstractmethod
    def unpack(
        cls,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> QuantizedWeight:
        """The weight that `header`, `pack` and `shared` describe."""


def unpack_weight(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor]
) -> QuantizedWeight:
    """Read a weight of any format known here.

    Raises:
        ValueError: the header names a format that is not known.
    """
    name = header.get("format")
    if name not in _FORMATS:
        raise ValueError(
            f"a weight is stored in format {name!r}; this version reads {sorted(_FORMATS)}"
        )
    return _FORMATS[name].unpack(header, tensors, shared)
