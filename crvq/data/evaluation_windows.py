"""Windows to evaluate on: through the joined text, or drawn from inside long documents."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from crvq.config.evaluation import PerplexityConfig
from crvq.data.documents import Documents
from crvq.data.tokens import TokenizedText, tokenize_text
from crvq.data.windows import evaluation_windows
from crvq.errors import ConfigError


@dataclass(frozen=True)
class EvaluationWindows:
    """Token windows and which of their tokens count."""

    ids: torch.Tensor
    """``(windows, context)`` token ids."""
    available: int | None
    """Windows that the whole text has; None for drawn ones, of which there is no end."""
    overlap: int
    """Tokens that a window shares with the one before it, and that are not scored again."""
    scored_bytes: int | None
    """UTF-8 bytes that the scored tokens stand for; None if the tokenizer cannot tell."""
    protocol: str
    """In words, for records."""


def cut_windows(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    config: PerplexityConfig,
    key: str = "eval.perplexity.NAME",
) -> EvaluationWindows:
    """Windows by the protocol that ``config`` asks for.

    Raises:
        ConfigError: the text is too short for one window, or no document for a drawn one.
    """
    if config.windows == "drawn":
        return _drawn(documents, tokenizer, config, key)
    return _consecutive(documents, tokenizer, config, key)


def first_scored(window: int, overlap: int) -> int:
    """Position of the first scored token: never 0, which nothing precedes."""
    return max(1, overlap) if window else 1


def _consecutive(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    config: PerplexityConfig,
    key: str,
) -> EvaluationWindows:
    text = tokenize_text(documents.separator.join(documents.texts), tokenizer)
    context, step = config.context, config.stride or config.context
    ids = evaluation_windows(text.ids, context, config.max_windows, key, step)
    spans = [
        (start + first_scored(index, context - step) - 1, start + context - 1)
        for index, start in enumerate(range(0, len(ids) * step, step))
    ]
    how = (
        "windows do not overlap"
        if step == context
        else f"stride {step}, only tokens past the overlap are scored"
    )
    if config.max_documents is not None:
        picked = "the first" if config.shuffle_seed is None else "random"
        how = f"{picked} {config.max_documents} documents; {how}"
    return EvaluationWindows(
        ids=ids,
        available=(len(text.ids) - context) // step + 1,
        overlap=context - step,
        scored_bytes=_sum([text.bytes_between(*span) for span in spans]),
        protocol=f"joined by {documents.separator!r}, one tokenization; {how}",
    )


def _drawn(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    config: PerplexityConfig,
    key: str,
) -> EvaluationWindows:
    """As GPTQ's code and those after it draw C4's windows (AQLM's and CRVQ's: seed 0, 256).

    Python's generator gives a document; if that has fewer tokens than a window another one; then
    the start, of which the last possible is never drawn. A document of exactly one window is
    taken whole without a draw, as AQLM's code has it (GPTQ's fails there).
    """
    assert config.max_windows is not None
    draw = random.Random(config.seed)
    texts, context = documents.texts, config.context
    tokenized: dict[int, TokenizedText | None] = {}  # None: too short
    windows: list[torch.Tensor] = []
    sizes: list[int | None] = []
    while len(windows) < config.max_windows:
        index = draw.randint(0, len(texts) - 1)
        if index not in tokenized:
            text = tokenize_text(texts[index], tokenizer)
            tokenized[index] = text if len(text.ids) >= context else None
        found = tokenized[index]
        if found is None:
            if len(tokenized) == len(texts) and not any(tokenized.values()):
                raise ConfigError(
                    f"{key}: none of the {len(texts)} documents has {context} tokens, and "
                    f"windows=drawn takes each window from inside one document; set {key}.context "
                    f"lower, {key}.windows=consecutive, or use longer documents"
                )
            continue
        spare = len(found.ids) - context
        start = draw.randint(0, spare - 1) if spare else 0
        windows.append(found.ids[start : start + context])
        sizes.append(found.bytes_between(start, start + context - 1))
    return EvaluationWindows(
        ids=torch.stack(windows),
        available=None,
        overlap=0,
        scored_bytes=_sum(sizes),
        protocol=f"{len(windows)} windows drawn with seed {config.seed} from inside documents of "
        f"at least {context} tokens, as GPTQ's code draws C4",
    )


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
