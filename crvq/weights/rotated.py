"""A weight of any other format in a rotated basis of its in features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from crvq.vq.rotation import Rotation
from crvq.weights.bits import BitCount
from crvq.weights.fields import Count, Field, FormatError, Sizes, index_bits
from crvq.weights.quantized import FORMATS, QuantizedWeight
from crvq.weights.trainable import Importance, PartKind, Parts, TrainableWeight, trainable

_SIGNS = "rotation.signs"
_KEPT = "rotation.kept"


class RotatedSizes(Sizes):
    """Sizes of a rotated weight: of the rotation, and the header of the weight inside."""

    block: Count
    rotated: int
    """In features that are rotated."""
    inner: dict[str, Any]

    @property
    def inner_format(self) -> type[QuantizedWeight]:
        """The class of the weight inside.

        Raises:
            FormatError: its format is not known, or is this one again.
        """
        name = self.inner.get("format")
        if not isinstance(name, str) or name not in FORMATS or name == RotatedWeight.format:
            raise FormatError("inner", f"format {name!r:.60} cannot be rotated")
        return FORMATS.get(name)

    @property
    def inner_sizes(self) -> Sizes:
        """The sizes of the weight inside."""
        found = self.inner_format.header_type.from_header(self.inner)
        if (found.out_features, found.in_features) != (self.out_features, self.in_features):
            raise FormatError("inner", "the weight inside has another shape")
        if not 0 <= self.rotated <= self.in_features or self.rotated % self.block:
            raise FormatError("rotated", f"{self.rotated} in blocks of {self.block}")
        return found

    @property
    def share(self) -> float:
        """That of the weight inside."""
        return self.inner_sizes.share

    @property
    def shared_set(self) -> str | None:
        """That of the weight inside."""
        return self.inner_sizes.shared_set


@dataclass
class RotatedWeight(QuantizedWeight):
    """``Ŵ = Q Rᵀ``: Q is any quantized weight, R the rotation of the in features."""

    format: ClassVar[str] = "rotated"
    header_type: ClassVar[type[Sizes]] = RotatedSizes

    inner: QuantizedWeight
    rotation: Rotation

    def __post_init__(self) -> None:
        self.out_features, self.in_features = self.inner.out_features, self.inner.in_features

    def dequantize(self) -> Tensor:
        """Dequantize, and rotate back."""
        weight = self.inner.dequantize()
        return self.rotation.to(weight.device).inverse(weight)

    @classmethod
    def stored_fields(cls, sizes: RotatedSizes) -> list[Field]:
        """Return the fields of the weight inside, signs, and which in features are not rotated."""
        kept = sizes.in_features - sizes.rotated
        width = index_bits(sizes.in_features)
        own = [Field(_SIGNS, "other", (sizes.rotated,), width=1)] if sizes.rotated else []
        if kept and width:
            own.append(
                Field(_KEPT, "permutation", (kept,), width, below=sizes.in_features, distinct=True)
            )
        return [*sizes.inner_format.stored_fields(sizes.inner_sizes), *own]

    def sizes(self) -> RotatedSizes:
        """Return the header."""
        return RotatedSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            block=self.rotation.block,
            rotated=len(self.rotation.signs),
            inner=self.inner.header(),
        )

    def values(self) -> dict[str, Tensor]:
        """Return the values of all fields."""
        rest = torch.ones(self.in_features, dtype=torch.bool)
        rest[self.rotation.rotated.cpu()] = False
        return {
            **self.inner.values(),
            _SIGNS: (self.rotation.signs > 0).long(),
            _KEPT: rest.nonzero()[:, 0],
        }

    @classmethod
    def from_values(cls, sizes: RotatedSizes, values: Mapping[str, Tensor]) -> Self:
        """Return the weight; in features take part in their natural order."""
        own = {name: values[name] for name in (_SIGNS, _KEPT) if name in values}
        inner = {name: value for name, value in values.items() if name not in own}
        rest = torch.ones(sizes.in_features, dtype=torch.bool)
        if _KEPT in own:
            rest[own[_KEPT].long()] = False
        places = rest.nonzero()[:, 0]
        if len(places) != sizes.rotated:
            raise FormatError(_KEPT, f"leaves {len(places)} in features, not {sizes.rotated}")
        signs = own.get(_SIGNS, torch.ones(0)).float() * 2 - 1
        weight = sizes.inner_format.from_values(sizes.inner_sizes, inner)
        return cls(weight, Rotation(signs, places, sizes.block))

    @classmethod
    def count_rotation(cls, in_features: int, rotated: int) -> BitCount:
        """Return the bits that a rotation adds to the weight inside."""
        kept = in_features - rotated
        return BitCount(
            permutation=8.0 * -(-kept * index_bits(in_features) // 8), other=8.0 * -(-rotated // 8)
        )

    def entropy_bits(self) -> float | None:
        """Of the weight inside."""
        return self.inner.entropy_bits()

    def bits_as_published(self) -> float | None:
        """Of the weight inside: signs are drawn from a seed in published counts."""
        return self.inner.bits_as_published()


@trainable.register
def _(weight: RotatedWeight, device: torch.device) -> TrainableWeight | None:
    inner = trainable(weight.inner, device)
    return None if inner is None else TrainableRotated(weight, device, inner)


class TrainableRotated(TrainableWeight[RotatedWeight]):
    """The weight inside, trained through the rotation, which is fixed and orthogonal.

    Args:
        weight: as quantized.
        device: of training.
        inner: the weight inside, ready for training.
    """

    def __init__(
        self, weight: RotatedWeight, device: torch.device, inner: TrainableWeight[Any]
    ) -> None:
        self.device, self._inner = device, inner
        self._take(weight)

    def load(self, weight: RotatedWeight) -> None:
        """Take over another weight of the same shape."""
        self._inner.load(weight.inner)
        self._take(weight)

    def _take(self, weight: RotatedWeight) -> None:
        self._weight, self._rotation = weight, weight.rotation.to(self.device)
        self.parts = self._inner.parts

    @property
    def code_groups(self) -> int:
        """Those of the weight inside."""
        return self._inner.code_groups

    def changed_groups(self, weight: RotatedWeight) -> int:
        """Those of the weight inside."""
        return self._inner.changed_groups(weight.inner)

    def move_codes(
        self, parts: Parts, target: Tensor, importance: Importance, limit: int, beam: int
    ) -> int:
        """Move the codes inside towards the rotated target."""
        rows, columns = importance
        # Rotated, a diagonal metric of columns is none any more; its diagonal stands for it.
        spread = self._rotation.spread(columns)
        return self._inner.move_codes(
            parts, self._rotation.forward(target), (rows, spread), limit, beam
        )

    def kind(self, name: str) -> PartKind:
        """As inside."""
        return self._inner.kind(name)

    def owner(self, name: str) -> str | None:
        """As inside."""
        return self._inner.owner(name)

    def dense(self, parts: Parts) -> Tensor:
        """Decode, and rotate back."""
        return self._rotation.inverse(self._inner.dense(parts))

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """The gradient of ``Q`` is that of ``Q Rᵀ`` times R."""
        return self._inner.pullback(parts, self._rotation.forward(gradient))

    def stored(self, name: str, value: Tensor) -> Tensor:
        """As inside."""
        return self._inner.stored(name, value)

    def quantized(self, parts: Parts) -> RotatedWeight:
        """The same rotation around the weight with these values."""
        return RotatedWeight(
            cast(QuantizedWeight, self._inner.quantized(parts)), self._weight.rotation
        )
