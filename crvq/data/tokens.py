"""Text to tokens, as papers of the GPTQ line do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from crvq.data.documents import Documents


@dataclass(frozen=True)
class TokenizedText:
    """Token ids, and how much of the text each of them ends."""

    ids: torch.Tensor
    """``(n,)`` int64."""
    byte_ends: torch.Tensor | None
    """``(n,)`` int64: UTF-8 bytes of the text up to the end of each token; None where the
    tokenizer cannot say (one without a Rust backend)."""

    def bytes_between(self, first: int, last: int) -> int | None:
        """Return the UTF-8 bytes that the tokens after ``first`` up to ``last`` stand for.

        ``first`` may be -1: from the text's beginning.
        What lies between two tokens (blanks that a tokenizer drops) counts with the later one;
        a character that is split over tokens counts with the first of them.
        """
        if self.byte_ends is None:
            return None
        before = int(self.byte_ends[first]) if first >= 0 else 0
        return int(self.byte_ends[last]) - before


def tokenize(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, special_tokens: bool = True
) -> torch.Tensor:
    """Return all documents as one sequence of token ids (n,), int64.

    The texts are joined by ``documents.separator`` (a blank line) and tokenized once.

    Args:
        documents: the texts.
        tokenizer: the model's.
        special_tokens: those that the tokenizer adds by default (Llama: one BOS at the start).
    """
    # verbose=False: that the text is longer than the model's context is the point.
    joined = documents.separator.join(documents.texts)
    encoded = tokenizer(joined, verbose=False, add_special_tokens=special_tokens)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def tokenize_text(
    text: str, tokenizer: PreTrainedTokenizerBase, special_tokens: bool = True
) -> TokenizedText:
    """Return one text with the bytes that each token stands for; ids are those of `tokenize`."""
    with_offsets = bool(tokenizer.is_fast)
    encoded = tokenizer(
        text,
        verbose=False,
        return_offsets_mapping=with_offsets,
        add_special_tokens=special_tokens,
    )
    ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    if not with_offsets:
        return TokenizedText(ids, None)
    ends = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
    # Special tokens end at 0: they stand for no text, wherever they are.
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    return TokenizedText(ids, torch.from_numpy(_byte_offsets(text)[ends]))


def _byte_offsets(text: str) -> np.ndarray:
    """UTF-8 bytes before each character of ``text``, and of all of it, (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
