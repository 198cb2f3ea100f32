"""Take a causal model apart into its body and its head, where that leaves its logits the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

_PROBE = 16


@dataclass(frozen=True)
class HeadSplit:
    """A body that ends in hidden states and a head that turns any slice of them into logits."""

    body: nn.Module
    head: nn.Module

    def hidden_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """Last hidden states (batch, positions, hidden) of ``tokens`` (batch, positions)."""
        return self.body(input_ids=tokens, use_cache=False).last_hidden_state


def split_head(model: PreTrainedModel, tokens: torch.Tensor) -> HeadSplit | None:
    """The split, or None if the model does more than apply its head to its hidden states.

    Gemma 2 caps its logits, Cohere scales them, others may do what nobody foresaw: so the split is
    tried on the first few of ``tokens`` (1, n) and kept only if its logits are the model's own.
    """
    head = model.get_output_embeddings()
    body = model.base_model
    if head is None or body is model:
        return None
    split = HeadSplit(body, head)
    probe = tokens[:, :_PROBE]
    with torch.inference_mode():
        expected = model(input_ids=probe, use_cache=False).logits
        try:
            logits = split.head(split.hidden_states(probe))
        except (AttributeError, TypeError, RuntimeError):
            return None
    # Exactly equal: a cap hardly shows in the small logits of a small probe.
    return split if torch.equal(logits, expected) else None
