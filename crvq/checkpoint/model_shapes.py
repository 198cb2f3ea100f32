"""The shapes that a model has where a checkpoint wants to put something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crvq.models.blocks import find_slots
from crvq.weights.fields import FormatError


@dataclass(frozen=True)
class ModelShapes:
    """Shapes of one block, or of what lies outside all blocks."""

    linears: Mapping[str, tuple[int, int]]
    """``(out, in)`` by kind of linear."""
    parameters: Mapping[str, tuple[int, ...]]
    """By name."""

    @classmethod
    def of(cls, module: nn.Module, skip: Sequence[str] = ()) -> ModelShapes:
        """Read them off a module.

        Args:
            module: a block, or the whole model.
            skip: name endings of linears that stay in full precision.
        """
        return cls(
            linears={slot.kind: slot.shape for slot in find_slots(module, skip)},
            parameters={name: tuple(one.shape) for name, one in module.named_parameters()},
        )

    def linear(self, kind: str) -> tuple[int, int]:
        """Return a linear's shape.

        Raises:
            FormatError: the model has no such linear.
        """
        if kind not in self.linears:
            raise FormatError("linears", f"the model has no linear {kind!a:.100} there")
        return self.linears[kind]


def check_unquantized(tensors: Mapping[str, Tensor], shapes: ModelShapes | None) -> None:
    """Check trained norms and biases.

    Raises:
        FormatError: one is not of finite numbers, or (where shapes are known) the model has no
            parameter of that name and shape.
    """
    for name, tensor in tensors.items():
        shown = f"{name!a:.100}"
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise FormatError(shown, f"not finite numbers ({tensor.dtype})")
        if shapes is not None and shapes.parameters.get(name) != tuple(tensor.shape):
            there = shapes.parameters.get(name, "nothing")
            raise FormatError(shown, f"{tuple(tensor.shape)}, while the model has {there} there")
