"""What to say when a measured model's output is NaN or infinite, and where that begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from crvq.errors import QuantizationError


def nonfinite_error(
    metric: str, model: PreTrainedModel, tokens: torch.Tensor, where: str
) -> QuantizationError:
    """The error to raise; runs ``tokens`` (1, n) once more to see where the bad number comes from.

    Args:
        metric: what was measured, as in ``perplexity``.
        model: on the tokens' device, in the same precision as before.
        tokens: the input that gave NaN or infinity.
        where: which input it was, as in ``window 3 of 8``.
    """
    module = first_nonfinite_module(model, lambda: model(input_ids=tokens, use_cache=False))
    place = f"first in the output of {module}" if module else f"in the {metric} alone"
    return QuantizationError(
        f"{metric} is not finite: {where} gives NaN or infinity, {place}. "
        "Its weights are damaged or its inputs too large; look at that layer's relative loss in "
        "layers.csv, or try activation_dtype=float32"
    )


def first_nonfinite_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """Return the name of the first module whose output is not finite while ``forward`` runs.

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
