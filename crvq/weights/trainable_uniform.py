"""Training of uniform grids: the step of each row of each group."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from crvq.vq.uniform_grid import storable_steps
from crvq.weights.trainable import PartKind, Parts, TrainableWeight, trainable
from crvq.weights.uniform import UniformWeight

_STEPS = "steps"


@trainable.register
def _(weight: UniformWeight, device: torch.device) -> TrainableWeight:
    return TrainableUniform(weight, device)


class TrainableUniform(TrainableWeight):
    """``Ŵ[o, π[p]] = (q[o, p] - zero[o, g]) * step[o, g]`` with the steps free.

    Args:
        weight: as quantized.
        device: of training.
    """

    def __init__(self, weight: UniformWeight, device: torch.device) -> None:
        self._weight = weight
        group = torch.arange(weight.in_features, device=weight.codes.device) // weight.group_size
        self._levels = (weight.codes - weight.zeros[:, group]).to(device, torch.int16)
        self._group = group.to(device)
        self._order = None if weight.order is None else weight.order.to(device)
        self._places = None if self._order is None else self._order.argsort()
        self.parts = {_STEPS: weight.steps.to(device)}

    def kind(self, name: str) -> PartKind:
        """Steps are scales."""
        return "scales"

    def dense(self, parts: Parts) -> Tensor:
        """``(out, in)``."""
        steps = parts[_STEPS]
        coded = self._levels.to(steps.dtype) * steps.index_select(1, self._group)
        return coded if self._places is None else coded.index_select(1, self._places)

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """A sum over the columns of each row's group."""
        coded = gradient if self._order is None else gradient.index_select(1, self._order)
        found = coded * self._levels.to(gradient.dtype)
        padded = functional.pad(found, (0, -found.shape[1] % self._weight.group_size))
        return {_STEPS: padded.unflatten(1, (-1, self._weight.group_size)).sum(2)}

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Float16, positive."""
        if not bool(torch.isfinite(value).all()):
            raise ValueError("a step is not finite")
        return storable_steps(value)

    def quantized(self, parts: Parts) -> UniformWeight:
        """Same codes and zero points."""
        steps = self.stored(_STEPS, parts[_STEPS]).to(self._weight.steps.device)
        return replace(self._weight, steps=steps)
