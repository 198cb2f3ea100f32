"""Windows to evaluate on: through the joined text, or drawn from inside long documents."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from crvq.config.evaluation import PerplexityConfig
from crvq.data.bos import Bos, resolve_bos, with_bos
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
    """UTF-8 bytes that the scored tokens stand for; None if the tokenizer cannot say."""
    protocol: str
    """In words, for records."""
    bos: Bos
    """Whether each window begins with BOS."""


def cut_windows(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    config: PerplexityConfig,
    key: str = "eval.perplexity.NAME",
    model_type: str = "",
) -> EvaluationWindows:
    """Return windows by the protocol that ``config`` asks for.

    Args:
        documents: the text.
        tokenizer: the model's.
        config: the protocol.
        key: its config key, for messages.
        model_type: of the model's text configuration, which decides ``bos=auto``.

    Raises:
        ConfigError: the text is too short for one window, or no document for a drawn one; or a
            BOS is asked for where there is none.
    """
    bos = resolve_bos(config.bos, tokenizer, model_type, f"{key}.bos")
    cut = _Cut(documents, tokenizer, config, key, tokenizer.bos_token_id, bos)
    return cut.drawn() if config.windows == "drawn" else cut.consecutive()


@dataclass(frozen=True)
class _Cut:
    """One text, and how it is cut."""

    documents: Documents
    tokenizer: PreTrainedTokenizerBase
    config: PerplexityConfig
    key: str
    token: int | None
    bos: Bos

    @property
    def size(self) -> int:
        """Tokens of text in a window: ``context`` counts a BOS."""
        return self.config.context - (self.bos == "each_window")

    def consecutive(self) -> EvaluationWindows:
        """Windows through the joined text."""
        config, documents, size = self.config, self.documents, self.size
        text = self._tokenized(documents.separator.join(documents.texts))
        step = config.stride or size
        if step > size:
            raise ConfigError(
                f"{self.key}.stride={step} is above the {size} tokens of text in a window (BOS is "
                f"one of context={config.context}): a token in between would never be scored; "
                f"set {self.key}.stride={size} or less, or null"
            )
        ids = evaluation_windows(text.ids, size, config.max_windows, self.key, step)
        # A window's first token of text is scored only if a BOS stands before it.
        unscored = 1 if self.bos == "none" else 0
        spans = [
            (start + max(unscored, size - step if index else 0) - 1, start + size - 1)
            for index, start in enumerate(range(0, len(ids) * step, step))
        ]
        how = (
            "windows do not overlap"
            if step == size
            else f"stride {step}, only tokens past the overlap are scored"
        )
        if config.max_documents is not None:
            picked = "the first" if config.shuffle_seed is None else "random"
            how = f"{picked} {config.max_documents} documents; {how}"
        return EvaluationWindows(
            ids=self._begun(ids),
            available=(len(text.ids) - size) // step + 1,
            overlap=0 if step == size else config.context - step,
            scored_bytes=_sum([text.bytes_between(*span) for span in spans]),
            protocol=f"joined by {documents.separator!r}, one tokenization; {how}{self._words()}",
            bos=self.bos,
        )

    def drawn(self) -> EvaluationWindows:
        """Windows as GPTQ's code and those after it draw C4's (AQLM's and CRVQ's: seed 0, 256).

        Python's generator gives a document; if that has fewer tokens than a window another one;
        then the start, of which the last possible is never drawn. A document of exactly one window
        is taken whole without a draw, as AQLM's code has it (GPTQ's fails there).
        """
        config, key, size = self.config, self.key, self.size
        assert config.max_windows is not None
        draw, texts = random.Random(config.seed), self.documents.texts
        tokenized: dict[int, TokenizedText | None] = {}  # None: too short
        windows: list[torch.Tensor] = []
        sizes: list[int | None] = []
        while len(windows) < config.max_windows:
            index = draw.randint(0, len(texts) - 1)
            if index not in tokenized:
                text = self._tokenized(texts[index])
                tokenized[index] = text if len(text.ids) >= size else None
            found = tokenized[index]
            if found is None:
                if len(tokenized) == len(texts) and not any(tokenized.values()):
                    raise ConfigError(
                        f"{key}: none of the {len(texts)} documents has {size} tokens, and "
                        f"windows=drawn takes each window from inside one document; set "
                        f"{key}.context lower, {key}.windows=consecutive, or use longer documents"
                    )
                continue
            spare = len(found.ids) - size
            start = draw.randint(0, spare - 1) if spare else 0
            windows.append(found.ids[start : start + size])
            before = start if self.bos == "none" else start - 1
            sizes.append(found.bytes_between(before, start + size - 1))
        return EvaluationWindows(
            ids=self._begun(torch.stack(windows)),
            available=None,
            overlap=0,
            scored_bytes=_sum(sizes),
            protocol=f"{len(windows)} windows drawn with seed {config.seed} from inside documents "
            f"of at least {size} tokens, as GPTQ's code draws C4{self._words()}",
            bos=self.bos,
        )

    def _tokenized(self, text: str) -> TokenizedText:
        return tokenize_text(text, self.tokenizer, special_tokens=self.bos == "none")

    def _begun(self, windows: torch.Tensor) -> torch.Tensor:
        if self.bos == "none":
            return windows
        assert self.token is not None
        return with_bos(windows, self.token)

    def _words(self) -> str:
        if self.bos == "none":
            return ""
        return f"; each window is BOS and {self.size} tokens of text"


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
