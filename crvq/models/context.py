"""How many tokens a model can see at once."""

from __future__ import annotations

from transformers import PreTrainedModel

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def context_limit(model: PreTrainedModel) -> int | None:
    """The longest context in tokens that the model's config allows; None if it names none."""
    config = model.config.get_text_config()
    for name in _NAMES:
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None
