"""Text to tokens, as papers of the GPTQ line do it."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from crvq.data.documents import Documents


def tokenize(documents: Documents, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All documents as one sequence of token ids (n,), int64.

    The texts are joined by ``documents.separator`` (a blank line) and tokenized once, with the
    special tokens that the tokenizer adds by default (Llama: one BOS at the very start).
    """
    # verbose=False: that the text is longer than the model's context is the point.
    encoded = tokenizer(documents.separator.join(documents.texts), verbose=False)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)
