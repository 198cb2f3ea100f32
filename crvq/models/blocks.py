"""Find a model's blocks by looking, not by the names of one architecture."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from crvq.errors import SourceError


def find_blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The name and modules of the stack of equal blocks that holds most of the weights.

    A decoder's blocks are the `nn.ModuleList` with the most parameters whose members are all of
    one class and hold linears. (Llama: ``model.layers``; GPT-2: ``transformer.h``; OPT:
    ``model.decoder.layers``.)

    Raises:
        SourceError: no such list.
    """
    best: tuple[int, str, list[nn.Module]] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        members = list(module)
        if len({type(member) for member in members}) > 1:
            continue
        if not any(isinstance(m, (nn.Linear, Conv1D)) for m in members[0].modules()):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if best is None or size > best[0]:
            best = (size, name, members)
    if best is None:
        raise SourceError(
            f"{type(model).__name__} has no list of equal blocks with linears in it, so there is "
            "nothing to quantize block by block; only decoder models are supported"
        )
    return best[1], best[2]
