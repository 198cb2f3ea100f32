"""Text that a language model writes by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from crvq.models.precision import forward_precision


@torch.no_grad()
def sample_tokens(
    model: PreTrainedModel,
    first: Tensor,
    length: int,
    seed: int,
    activation_dtype: torch.dtype,
    forbidden: Tensor | None = None,
    on_token: Callable[[], None] = lambda: None,
) -> Tensor:
    """Continue each row by sampling from the model's own distribution (temperature 1).

    Args:
        model: in eval mode.
        first: where each text starts, ``(texts, given)``, int64.
        length: tokens of a text, those given included.
        seed: of all draws.
        activation_dtype: type of forward passes.
        forbidden: tokens that are never drawn, ``(n,)``: special ones.
        on_token: called after every position.

    Returns:
        ``(texts, length)`` on the CPU.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    texts, step, past = [first.cpu()], first.to(device), None
    with forward_precision(device, activation_dtype):
        for _ in range(length - first.shape[1]):
            output = model(input_ids=step, past_key_values=past, use_cache=True)
            past = output.past_key_values
            logits = output.logits[:, -1].float()
            if forbidden is not None:
                logits[:, forbidden.to(device)] = -torch.inf
            # Drawn on the CPU, so that the draws do not depend on where the model computes.
            drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)
            texts.append(drawn)
            step = drawn.to(device)
            on_token()
    return torch.cat(texts, 1)
