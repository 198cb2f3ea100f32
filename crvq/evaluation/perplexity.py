"""Token perplexity over windows, as papers of the GPTQ line report it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from crvq.evaluation.finite import nonfinite_error
from crvq.evaluation.hidden_states import Head, HeadSplit, split_head
from crvq.models.precision import measuring_precision
from crvq.team import team

POSITIONS = 128
"""Positions whose logits are held at once: all 2048 of SmolLM2 would take 400 MB in float32, and
slices that stay in the processor's cache are faster."""
GPU_POSITIONS = 1024
"""The same on a GPU, which wants larger pieces of work."""


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity, and the numbers that it was computed from."""

    perplexity: float
    nll_sum: float
    """Negative log-likelihood of all scored tokens, in nats."""
    tokens: int
    """Scored tokens; without overlap windows x (context - 1)."""
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
    overlap: int = 0,
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
        on_window: called after every window of this process.
        overlap: tokens at the start of every window but the first that the window before has
            scored already: context only, not scored again. Below ``context``.

    Raises:
        QuantizationError: the model's output is NaN or infinite; names the window and the module.
    """
    count, context = windows.shape
    sums = [0.0] * count
    scored = [context - max(1, overlap if index else 1) for index in range(count)]
    with torch.inference_mode(), measuring_precision(model, device, activation_dtype):
        split = split_head(model, windows[:1].to(device))
        for index in team().mine(count):
            window = windows[index : index + 1].to(device)
            first = max(1, overlap if index else 1)
            nll = _window_nll(model, split, window, first)
            if not math.isfinite(nll):
                raise nonfinite_error("perplexity", model, window, f"window {index} of {count}")
            sums[index] = nll
            if on_window is not None:
                on_window()
    # Each window is one process's, and adding zeros is exact: the result is that of one process.
    sums = team().total(sums)
    total, tokens = math.fsum(sums), sum(scored)
    return PerplexityResult(
        perplexity=_exp(total / tokens),
        nll_sum=total,
        tokens=tokens,
        windows=count,
        context=context,
        window_nll=tuple(nll / n for nll, n in zip(sums, scored, strict=True)),
    )


def bits_per_byte(perplexity: float, tokens: int, text_bytes: int) -> float:
    """Bits that the model needs for a byte of text, from perplexity and the text's size.

    Perplexities of models with other tokenizers do not compare; these do.

    Args:
        perplexity: mean over ``tokens`` scored tokens, exponentiated.
        tokens: how many were scored.
        text_bytes: UTF-8 bytes that they stand for.
    """
    return math.log2(perplexity) * tokens / text_bytes


def _window_nll(
    model: PreTrainedModel, split: HeadSplit | None, window: torch.Tensor, first: int
) -> float:
    """Summed negative log-likelihood of ``window`` (1, context) from position ``first`` on."""
    head: Head
    if split is None:
        states, head = model(input_ids=window, use_cache=False).logits[0], torch.nn.Identity()
    else:
        states, head = split.hidden_states(window)[0], split.head
    positions = POSITIONS if window.device.type == "cpu" else GPU_POSITIONS
    sums = []
    for start in range(first, window.shape[1], positions):
        wanted = window[0, start : start + positions]
        logits = head(states[start - 1 : start - 1 + len(wanted)]).float()
        sums.append(functional.cross_entropy(logits, wanted, reduction="none").double().sum())
    return torch.stack(sums).sum().item()


def _exp(mean: float) -> float:
    """exp, infinite where a float cannot hold it (a broken model's mean loss may exceed 709)."""
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
