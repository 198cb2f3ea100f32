"""How fast a model reads a prompt and writes tokens, one sequence at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from crvq.models.precision import measuring_precision
from crvq.models.quiet import quiet_transformers


@dataclass(frozen=True)
class Speed:
    """Medians over repeats, of a batch of one."""

    prefill: float
    """Tokens of the prompt per second."""
    decode: float
    """New tokens per second, each by a pass of its own with the cache of those before."""


def generation_speed(
    model: PreTrainedModel,
    prompt: torch.Tensor,
    new_tokens: int,
    repeats: int,
    device: torch.device,
    activation_dtype: torch.dtype,
    on_repeat: Callable[[], None] = lambda: None,
) -> Speed:
    """Take the time of greedy generation, after one pass that is not counted.

    Args:
        model: on ``device``, in eval mode.
        prompt: ``(1, tokens)``.
        new_tokens: written after it, whatever they are: no end token stops them.
        repeats: of both.
        device: where the model is.
        activation_dtype: type of forward passes.
        on_repeat: called after each.
    """
    tokens = prompt.to(device)
    prefills, decodes = [], []
    with (
        torch.no_grad(),  # in inference mode inputs reordered for q would not serve k and v
        quiet_transformers(),
        measuring_precision(model, device, activation_dtype),
    ):
        for turn in range(repeats + 1):
            prefill, decode = _once(model, tokens, new_tokens, device)
            if turn:
                prefills.append(prefill)
                decodes.append(decode)
                on_repeat()
    return Speed(tokens.shape[1] / median(prefills), new_tokens / median(decodes))


def _once(
    model: PreTrainedModel, tokens: torch.Tensor, new_tokens: int, device: torch.device
) -> tuple[float, float]:
    """Return the seconds of the prompt, and those of all new tokens."""
    begun = _now(device)
    # Logits of the last position alone, as generation needs them.
    result: Any = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
    read = _now(device)
    for _ in range(new_tokens):
        following = result.logits[:, -1:].argmax(-1)
        result = model(input_ids=following, past_key_values=result.past_key_values, use_cache=True)
    return read - begun, _now(device) - read


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
