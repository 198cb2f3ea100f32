"""Training of binarized weights: the scales, centres and grids of BiLLM and PB-LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from crvq.vq.binarize import storable
from crvq.weights.partial_binary import PartialBinaryWeight
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.split_binary import SplitBinaryWeight
from crvq.weights.trainable import PartKind, Parts, TrainableWeight, trainable

_Binary = SplitBinaryWeight | PartialBinaryWeight


@trainable.register
def _(weight: SplitBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableBinary(weight, ("scales", "centres"), device)


@trainable.register
def _(weight: PartialBinaryWeight, device: torch.device) -> TrainableWeight:
    return TrainableBinary(weight, ("scales", "steps"), device)


class TrainableBinary(TrainableWeight):
    """A weight whose own decoding is differentiable in its float16 numbers.

    Args:
        weight: as quantized; signs, masks and codes stay as they are.
        names: of its numbers; those that are None are left out.
        device: of training.
    """

    def __init__(
        self,
        weight: _Binary,
        names: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self._weight = weight
        held = {field.name: getattr(weight, field.name) for field in fields(weight)}
        there = {name: part.to(device) for name, part in held.items() if isinstance(part, Tensor)}
        self._there = _with(weight, there)
        self.parts = {name: there[name] for name in names if name in there}

    def kind(self, name: str) -> PartKind:
        """All are scales."""
        return "scales"

    def dense(self, parts: Parts) -> Tensor:
        """``(out, in)``."""
        return _with(self._there, parts).dequantize()

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """By autograd through the decoding."""
        with torch.enable_grad():
            free = {name: part.detach().requires_grad_() for name, part in parts.items()}
            found = torch.autograd.grad(self.dense(free), list(free.values()), gradient)
        return dict(zip(free, found, strict=True))

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Float16."""
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"a value of {name} is not finite")
        return storable(value)

    def quantized(self, parts: Parts) -> QuantizedWeight:
        """Same signs, masks and codes."""
        device = self._weight.signs.device
        stored = {name: self.stored(name, part).to(device) for name, part in parts.items()}
        return _with(self._weight, stored)


def _with(weight: _Binary, parts: Mapping[str, Any]) -> _Binary:
    """The weight with other values of some fields."""
    if isinstance(weight, SplitBinaryWeight):
        return replace(weight, **parts)
    return replace(weight, **parts)
