"""The linears of a block: where a weight is read, and where its quantized value is put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LinearSlot:
    """One linear map inside a block, whatever module holds it."""

    kind: str
    """Name inside the block; for an expert's slice with its number: ``mlp.experts.down_proj.3``."""
    parameter: Tensor
    expert: int | None = None
    """Which slice of a parameter ``(experts, out, in)``; None for its own module."""
    transposed: bool = False
    """GPT-2's Conv1D holds ``(in, out)``."""
    module: nn.Module | None = None
    """The module that is called with the input; None for an expert's slice."""

    def view(self, held: Tensor) -> Tensor:
        """The part ``(out, in)`` of a tensor laid out as the parameter is (its gradient, say)."""
        own = held if self.expert is None else held[self.expert]
        return own.T if self.transposed else own

    @property
    def _view(self) -> Tensor:
        return self.view(self.parameter.data)

    def read(self) -> Tensor:
        """Return the weight ``(out, in)`` in float32, a copy."""
        return self._view.float().clone(memory_format=torch.contiguous_format)

    def write(self, weight: Tensor) -> None:
        """Put ``weight (out, in)`` in place, in the parameter's own type."""
        self._view.copy_(weight)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        out_features, in_features = self._view.shape
        return out_features, in_features


def find_slots(block: nn.Module, skip: Sequence[str] = ()) -> list[LinearSlot]:
    """Return all linears of a block: `nn.Linear`, GPT-2's Conv1D, and slices of fused experts.

    Fused experts are parameters ``(experts, out, in)`` that a module without its own linears
    holds; whether the model really applies their slices as linears shows when inputs are
    collected (see `crvq.models.second_moments`).

    Args:
        block: a decoder block.
        skip: name endings of linears to leave alone.
    """
    slots: list[LinearSlot] = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            slots.append(LinearSlot(name, module.weight, module=module))
        elif isinstance(module, Conv1D):
            slots.append(LinearSlot(name, module.weight, transposed=True, module=module))
        elif not isinstance(module, nn.modules.conv._ConvNd):
            slots += _expert_slots(name, module)
    return [slot for slot in slots if not slot.kind.endswith(tuple(skip))]


def _expert_slots(name: str, module: nn.Module) -> list[LinearSlot]:
    fused = [
        (key, parameter)
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point()
    ]
    return [
        LinearSlot(f"{name}.{key}.{expert}", parameter, expert=expert)
        for key, parameter in fused
        for expert in range(len(parameter))
    ]
