"""Find a model's blocks by looking, not by the names of one architecture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
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
