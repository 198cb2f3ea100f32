"""Token perplexity over windows that do not overlap, as papers of the GPTQ line report it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from crvq.errors import QuantizationError
from crvq.evaluation.hidden_states import HeadSplit, split_head
from crvq.models.nonfinite import first_nonfinite_module
from crvq.models.precision import forward_precision

POSITIONS = 512
"""Positions whose logits are held at once; all 2048 of SmolLM2 would take 400 MB in float32."""


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity, and the numbers that it was worked out from."""

    perplexity: float
    nll_sum: float
    """Negative log-likelihood of all predicted tokens, in nats."""
    tokens: int
    """Predicted tokens: windows x (context - 1)."""
    windows: int
    context: int
    window_nll: tuple[float, ...]
    """Mean negative log-likelihood of each window, to compare two models window by window."""


def perplexity(
    model: PreTrainedModel,
    windows: torch.Tensor,
    device: torch.device,
    activation_dtype: torch.dtype = torch.float32,
    on_window: Callable[[], None] | None = None,
) -> PerplexityResult:
    """exp of the mean negative log-likelihood of every token but each window's first.

    GPTQ's code, and those after it, multiply a window's mean loss by ``context`` and divide their
    sum by ``windows * context``: with windows of one length that is this same mean.

    Args:
        model: on ``device``, in eval mode.
        windows: (n, context) token ids; each is seen by itself.
        device: where the model is.
        activation_dtype: float32, or bfloat16 by autocast (the weights stay as they are).
            Log-softmax is taken in float32 and summed in float64 in both.
        on_window: called after every window.

    Raises:
        QuantizationError: the model's output is NaN or infinite; names the window and the module.
    """
    count, context = windows.shape
    sums = []
    with torch.inference_mode(), forward_precision(device, activation_dtype):
        split = split_head(model, windows[:1].to(device))
        for index in range(count):
            window = windows[index : index + 1].to(device)
            nll = _window_nll(model, split, window)
            if not math.isfinite(nll):
                raise _nonfinite_error(model, window, index, count)
            sums.append(nll)
            if on_window is not None:
                on_window()
    predicted = context - 1
    total = math.fsum(sums)
    return PerplexityResult(
        perplexity=_exp(total / (count * predicted)),
        nll_sum=total,
        tokens=count * predicted,
        windows=count,
        context=context,
        window_nll=tuple(nll / predicted for nll in sums),
    )


def _window_nll(model: PreTrainedModel, split: HeadSplit | None, window: torch.Tensor) -> float:
    """Summed negative log-likelihood of ``window`` (1, context), logits a slice at a time."""
    head: nn.Module
    if split is None:
        states, head = model(input_ids=window, use_cache=False).logits[0], nn.Identity()
    else:
        states, head = split.hidden_states(window)[0], split.head
    targets = window[0, 1:]
    total = 0.0
    for start in range(0, len(targets), POSITIONS):
        wanted = targets[start : start + POSITIONS]
        logits = head(states[start : start + len(wanted)]).float()
        total += functional.cross_entropy(logits, wanted, reduction="none").double().sum().item()
    return total


def _nonfinite_error(
    model: PreTrainedModel, window: torch.Tensor, index: int, count: int
) -> QuantizationError:
    """Run the window once more to see where the first bad number comes from."""
    module = first_nonfinite_module(model, lambda: model(input_ids=window, use_cache=False))
    where = f"first in the output of {module}" if module else "in the loss alone"
    return QuantizationError(
        f"perplexity is not finite: window {index} of {count} gives NaN or infinity, {where}. "
        "Its weights are damaged or its inputs too large; look at that layer's relative loss in "
        "layers.csv, or try activation_dtype=float32"
    )


def _exp(mean: float) -> float:
    """exp, infinite where a float cannot hold it (a broken model's mean loss may exceed 709)."""
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
