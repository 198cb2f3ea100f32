"""Take a causal model apart into its body and its head, where that leaves its logits the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

_PROBE = 16

Head = Callable[[torch.Tensor], torch.Tensor]
"""From hidden states (positions, hidden) to logits (positions, vocabulary)."""


@dataclass(frozen=True)
class HeadSplit:
    """A body that ends in hidden states and a head that turns any slice of them into logits."""

    body: nn.Module
    head: Head

    def hidden_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """Last hidden states (batch, positions, hidden) of ``tokens`` (batch, positions)."""
        return self.body(input_ids=tokens, use_cache=False).last_hidden_state


def split_head(model: PreTrainedModel, tokens: torch.Tensor) -> HeadSplit | None:
    """Return the split, or None if the model's logits cannot be computed from its hidden states.

    Gemma 2 caps its logits, Cohere scales them, others may do something else: so the plain
    head is tried on the first few of ``tokens`` (1, n) and kept only if its logits are the
    model's own. Where they are not, the model itself is the head: its own forward pass, with
    the hidden states put in place of its body's.
    """
    module = model.get_output_embeddings()
    body = model.base_model
    if body is model:
        return None
    probe = tokens[:, :_PROBE]
    heads: list[Head] = [] if module is None else [module]
    with torch.inference_mode():
        expected = model(input_ids=probe, use_cache=False).logits
        for head in [*heads, _rest_of(model, body)]:
            split = HeadSplit(body, head)
            try:
                logits = split.head(split.hidden_states(probe)[0])
            except (AttributeError, TypeError, RuntimeError):
                continue
            # Exactly equal: a cap hardly shows in the small logits of a small probe.
            if torch.equal(logits, expected[0]):
                return split
    return None


def _rest_of(model: PreTrainedModel, body: nn.Module) -> Head:
    """Return what ``model`` does after its body, as a head."""

    def head(states: torch.Tensor) -> torch.Tensor:
        def body_forward(*_args: object, **_options: object) -> BaseModelOutputWithPast:
            return BaseModelOutputWithPast(last_hidden_state=states[None])

        tokens = torch.zeros(1, len(states), dtype=torch.int64, device=states.device)
        body.forward = body_forward
        try:
            return model(input_ids=tokens, use_cache=False).logits[0]
        finally:
            del body.forward

    return head
