"""Find the module in which NaN or infinity first appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn


def first_nonfinite_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """The name of the first module whose output is not finite while ``forward`` runs.

    Children finish before their parents, so this is the innermost module. None if every output
    is finite.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not found and any(not bool(torch.isfinite(t).all()) for t in _tensors(output)):
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(watch(name or type(model).__name__))
        for name, module in model.named_modules()
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(output: object) -> Iterator[torch.Tensor]:
    """The floating-point tensors in a module's output, in tuples, lists and mappings too."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
