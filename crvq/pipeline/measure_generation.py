"""Greedy continuations, full precision and quantized side by side."""

from __future__ import annotations

import time

from crvq.config import GenerationConfig
from crvq.evaluation.generation import continuations, end_tokens, prompt_tokens
from crvq.models.context import context_limit
from crvq.models.digest import tokenizer_digest
from crvq.pipeline.fingerprint import tensor_digest
from crvq.pipeline.subject import Subject


class GenerationMeasure:
    """Continues each prompt; full precision's texts are remembered between runs.

    Args:
        subject: what is measured on.
        config: prompts and how they are continued.

    Raises:
        ConfigError: a prompt that cannot be continued.
    """

    def __init__(self, subject: Subject, config: GenerationConfig) -> None:
        self._subject, self._config = subject, config
        self._tokens = prompt_tokens(
            subject.loaded.tokenizer,
            config.prompts,
            config.max_new_tokens,
            context_limit(subject.model),
            config.chat_template,
        )

    def full_precision(self) -> None:
        """Look the texts up, or make and remember them."""
        loaded, digests = self._subject.loaded, [tensor_digest(tokens) for tokens in self._tokens]
        key: list[str | int] = ["generation", *digests, self._config.max_new_tokens]
        key += [tokenizer_digest(loaded.tokenizer), str(end_tokens(loaded.model, loaded.tokenizer))]
        known = (self._subject.known.find(*key) or {}).get("texts")
        if not isinstance(known, list) or len(known) != len(self._tokens):
            known = self._continue("full precision")
            self._subject.known.keep({"texts": known}, *key)
        self._record("full_precision", [str(text) for text in known])

    def quantized(self) -> None:
        """Make the texts."""
        self._record("quantized", self._continue("quantized"))

    def _continue(self, label: str) -> list[str]:
        subject, stage = self._subject, f"continuations of {label}"
        subject.listener.stage_started(stage, len(self._tokens))
        begun = time.perf_counter()
        texts = continuations(
            subject.model,
            subject.loaded.tokenizer,
            self._tokens,
            self._config.max_new_tokens,
            subject.device,
            subject.activation_dtype,
            on_prompt=lambda: subject.listener.stage_advanced(stage),
        )
        subject.listener.stage_finished(stage, time.perf_counter() - begun)
        return texts

    def _record(self, which: str, texts: list[str]) -> None:
        for prompt, text in zip(self._config.prompts, texts, strict=True):
            self._subject.record.set_generation(
                prompt, self._config.max_new_tokens, self._config.chat_template, **{which: text}
            )
