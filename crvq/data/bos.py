"""Whether windows of tokens begin with the beginning-of-sequence token (BOS)."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from crvq.errors import ConfigError

BosChoice = Literal["auto", "none", "each_window"]
"""What a configuration may ask for."""
Bos = Literal["none", "each_window"]
"""What is done. ``none``: the text is tokenized once, with the tokenizer's own special tokens, so
at most the very first window begins with BOS (GPTQ's code, and the papers that follow it).
``each_window``: the text is tokenized without special tokens, and each window is BOS and
``context - 1`` tokens of text; every token of text is scored, its first one after BOS alone."""

_NEED_BOS = ("gemma", "recurrent_gemma")
"""Families, by the beginning of their ``model_type``, that were trained on nothing but sequences
with BOS and are evaluated so by their authors. With ``none`` Gemma 3 270M has a perplexity of 25.2
instead of 19.8 on the first three windows of WikiText-2's test text."""


def resolve_bos(
    asked: BosChoice, tokenizer: PreTrainedTokenizerBase, model_type: str, key: str
) -> Bos:
    """Return what ``asked`` comes to for a model.

    ``auto`` is ``each_window`` for models that need BOS (`_NEED_BOS`) and whose tokenizer adds it
    by itself, else ``none``: published perplexities of LLaMA, OPT and others are taken so, although
    LLaMA's tokenizer adds a BOS as well.

    Args:
        asked: the configured value.
        tokenizer: the model's.
        model_type: of the model's (text) configuration.
        key: the config key, for the message.

    Raises:
        ConfigError: ``each_window`` of a tokenizer without BOS.
    """
    if asked == "each_window" and tokenizer.bos_token_id is None:
        raise ConfigError(
            f"{key}=each_window: this model's tokenizer has no BOS token; set {key}=none or auto"
        )
    if asked != "auto":
        return asked
    needs = model_type.startswith(_NEED_BOS) and adds_bos(tokenizer)
    return "each_window" if needs else "none"


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer begins a text with BOS by default."""
    if tokenizer.bos_token_id is None:
        return False
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def with_bos(windows: torch.Tensor, token: int) -> torch.Tensor:
    """Put BOS before each window: ``(n, length - 1)`` to ``(n, length)``."""
    begin = torch.full((len(windows), 1), token, dtype=windows.dtype)
    return torch.cat([begin, windows], 1)
