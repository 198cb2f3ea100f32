"""Find blocks and their linear layers by looking, not by the names of one architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from crvq.errors import SourceError


def find_blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """Return the name and modules of the stack of equal blocks that holds most of the weights.

    A decoder's blocks are the `nn.ModuleList` with the most parameters whose members are all of
    one class and hold linears. (Llama: ``model.layers``; GPT-2: ``transformer.h``; OPT:
    ``model.decoder.layers``.)

    Raises:
        SourceError: no such list, or its members are of several classes (hybrid models).
    """
    best: _Stack | None = None
    hybrid: _Stack | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        members = list(module)
        if not any(isinstance(m, (nn.Linear, Conv1D)) for one in members for m in one.modules()):
            continue
        stack = _Stack(sum(one.numel() for one in module.parameters()), name, members)
        if len(stack.kinds) == 1:
            best = stack if best is None or stack.size > best.size else best
        else:
            hybrid = stack if hybrid is None or stack.size > hybrid.size else hybrid
    # A list inside a hybrid's blocks (its experts) is not the stack of blocks either.
    if hybrid is not None and (best is None or best.name.startswith(f"{hybrid.name}.")):
        raise SourceError(
            f"{type(model).__name__} is a hybrid model: its blocks {hybrid.name} are of "
            f"{len(hybrid.kinds)} kinds ({', '.join(hybrid.kinds)}), and only models whose blocks "
            "are all of one kind are supported; choose another model"
        )
    if best is None:
        raise SourceError(
            f"{type(model).__name__} has no list of equal blocks with linear layers in it, so "
            "there is nothing to quantize block by block; only decoder models are supported"
        )
    return best.name, best.members


@dataclass(frozen=True)
class _Stack:
    """A list of modules that may be the model's blocks."""

    size: int
    """Parameters in all of it."""
    name: str
    members: list[nn.Module]

    @property
    def kinds(self) -> list[str]:
        """Classes of the members."""
        return sorted({type(member).__name__ for member in self.members})


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


def run_experts_one_by_one(model: PreTrainedModel) -> None:
    """Let fused experts be applied as linears, an expert at a time; others change nothing.

    transformers' default for mixtures is one grouped product for all experts, in which the input
    of a single expert cannot be seen; its weights would then stay in full precision. Perplexity
    is taken in this way as well, so that before and after quantization compare.
    """
    # Releases of transformers before 5.1 have no choice to make.
    choose = getattr(model, "set_experts_implementation", None)
    if choose is not None and getattr(model.config, "_experts_implementation", None) != "eager":
        choose("eager")
