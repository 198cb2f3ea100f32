"""Everything that a run's ``eval`` asks for, before and after its model is quantized.

A new kind of measurement is a `Measure` and an entry in `_measures`.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from crvq.config import EvalConfig, GenerationConfig, PerplexityConfig
from crvq.evaluation.agreement import agreement, final_hidden_states
from crvq.evaluation.generation import continuations, end_tokens, prompt_tokens
from crvq.evaluation.perplexity import bits_per_byte, perplexity
from crvq.models.digest import tokenizer_digest
from crvq.models.load import context_limit
from crvq.models.precision import measuring_precision
from crvq.pipeline.context import EvaluationText, RunContext
from crvq.pipeline.fingerprint import tensor_digest
from crvq.pipeline.kv_cache import KvCacheMeasure
from crvq.pipeline.speed import SpeedMeasure
from crvq.pipeline.zero_shot import ZeroShotMeasure
from crvq.team import team


class Measure(Protocol):
    """One kind of measurement; each call measures the model as it is then and records it."""

    def full_precision(self) -> None:
        """Measure before quantization; what is known of the same model is not measured again."""

    def quantized(self) -> None:
        """Measure after quantization."""


class Evaluation:
    """All measurements of a run, before and after its model is quantized.

    Args:
        config: the eval group.
        context: of the run.

    Raises:
        ConfigError: a measurement that cannot be made on this model.
    """

    def __init__(self, config: EvalConfig, context: RunContext) -> None:
        if not context.method.quantizes:
            config = config.model_copy(update={"agreement": None})
        self._context = context
        self._measures = _measures(config, context)

    def full_precision(self) -> None:
        """Measure and record the model before quantization."""
        with self._precision():
            for measure in self._measures:
                measure.full_precision()

    def quantized(self) -> None:
        """Measure and record the quantized model."""
        with self._precision():
            for measure in self._measures:
                measure.quantized()

    def _precision(self) -> AbstractContextManager[None]:
        """Weights are rounded once for all measurements."""
        context = self._context
        return measuring_precision(context.model, context.device, context.activation_dtype)


class PerplexityMeasure:
    """Perplexity and bits per byte on each dataset, full precision remembered between runs.

    Args:
        context: of the run; its texts hold all of ``datasets``.
        datasets: configurations by name.
    """

    def __init__(self, context: RunContext, datasets: dict[str, PerplexityConfig]) -> None:
        self._context, self._datasets = context, datasets

    def full_precision(self) -> None:
        """Look each dataset up; measure and remember those that are not known."""
        known = []
        for name in self._datasets:
            text = self._context.evaluation_texts[name]
            key = ("perplexity", tensor_digest(text.windows), text.overlap)
            value = _number((self._context.known.find(*key) or {}).get("perplexity"))
            if team().agree(value is not None) and value is not None:
                known.append(name)
            else:
                value = self._measure(name, "full precision")
                if math.isfinite(value):  # JSON cannot say infinity, and a broken model is rare
                    kept = {"perplexity": value, "dataset": text.description}
                    self._context.known.keep(kept, *key)
            self._record(name, "full_precision", value)
        if known:
            self._context.listener.message(
                f"full-precision perplexity on {', '.join(known)} is known from an earlier run"
            )

    def quantized(self) -> None:
        """Measure each dataset."""
        for name in self._datasets:
            self._record(name, "quantized", self._measure(name, "quantized"))

    def _measure(self, name: str, label: str) -> float:
        context, text = self._context, self._context.evaluation_texts[name]
        stage = f"perplexity of {label} on {name}"
        own = team().mine(len(text.windows))
        context.listener.stage_started(stage, len(own))
        begun = time.perf_counter()
        with _computed(context, text.windows[list(own)]):
            result = perplexity(
                context.model,
                text.windows,
                context.device,
                context.activation_dtype,
                on_window=lambda: context.listener.stage_advanced(stage),
                overlap=text.overlap,
            )
        context.listener.stage_finished(stage, time.perf_counter() - begun)
        return result.perplexity

    def _record(self, name: str, which: str, value: float) -> None:
        text, config = self._context.evaluation_texts[name], self._datasets[name]
        values: dict[str, object] = {which: value}
        if text.scored_bytes:
            values[f"{which}_bits_per_byte"] = bits_per_byte(
                value, text.scored_tokens, text.scored_bytes
            )
        self._context.results.set_perplexity(
            name, **values, **described(text), stride=config.stride
        )


def _computed(context: RunContext, windows: torch.Tensor) -> AbstractContextManager[None]:
    """Take the windows through streamed blocks, one block at a time; else do nothing."""
    count = len(context.blocks[1])
    return context.residence.computed(
        windows,
        context.activation_dtype,
        lambda index: context.listener.note(f"reading block {index + 1} of {count}"),
    )


def described(text: EvaluationText) -> dict[str, object]:
    """Return what a record says of a dataset apart from its numbers."""
    windows, context = text.windows.shape
    return {
        "tokens": context + (windows - 1) * (context - text.overlap),
        "context": context,
        "windows": windows,
        "windows_available": text.available,
        "scored_tokens": text.scored_tokens,
        "scored_bytes": text.scored_bytes,
        "protocol": f"{text.description}; {text.protocol}",
        "bos": text.bos,
    }


def _number(value: object) -> float | None:
    """``value`` if it is one; a damaged file may say anything."""
    return float(value) if isinstance(value, (int, float)) else None


class AgreementMeasure:
    """KL divergence and top-1 agreement on windows of one dataset.

    Args:
        context: of the run; its texts hold ``dataset``.
        dataset: whose windows are used.
        max_windows: only the first so many; None: all.
    """

    def __init__(self, context: RunContext, dataset: str, max_windows: int | None) -> None:
        self._context, self._dataset = context, dataset
        self._text = context.evaluation_texts[dataset]
        self._windows = self._text.windows[:max_windows]
        self._reference: list[torch.Tensor] | None = None

    def full_precision(self) -> None:
        """Keep the last hidden states; nothing is recorded yet."""
        context = self._context
        stage = f"full precision's predictions on {self._dataset}"
        context.listener.stage_started(stage, len(self._windows))
        begun = time.perf_counter()
        with _computed(context, self._windows):
            self._reference = final_hidden_states(
                context.model,
                self._windows,
                context.device,
                context.activation_dtype,
                on_window=lambda: context.listener.stage_advanced(stage),
            )
        context.listener.stage_finished(stage, time.perf_counter() - begun)

    def quantized(self) -> None:
        """Compare with the states kept, and let them go."""
        assert self._reference is not None
        context = self._context
        stage = f"agreement with full precision on {self._dataset}"
        context.listener.stage_started(stage, len(self._windows))
        begun = time.perf_counter()
        with _computed(context, self._windows):
            result = agreement(
                context.model,
                self._windows,
                self._reference,
                context.device,
                context.activation_dtype,
                on_window=lambda: context.listener.stage_advanced(stage),
            )
        self._reference = None
        context.listener.stage_finished(stage, time.perf_counter() - begun)
        context.results.set_agreement(
            self._dataset,
            kl_divergence=result.kl_divergence,
            top1_agreement=result.top1_agreement,
            tokens=result.tokens,
            context=result.context,
            windows=result.windows,
            protocol=f"{self._text.description}; first {result.windows} windows of "
            f"eval.perplexity.{self._dataset}, KL(full precision || quantized) in nats per token",
        )


class GenerationMeasure:
    """Continues each prompt; full precision's texts are remembered between runs.

    Args:
        context: of the run.
        config: prompts and how they are continued.

    Raises:
        ConfigError: a prompt that cannot be continued.
    """

    def __init__(self, context: RunContext, config: GenerationConfig) -> None:
        self._context, self._config = context, config
        self._tokens = prompt_tokens(
            context.loaded.tokenizer,
            config.prompts,
            config.max_new_tokens,
            context_limit(context.model),
            config.chat_template,
        )

    def full_precision(self) -> None:
        """Look the texts up, or make and remember them."""
        loaded, digests = self._context.loaded, [tensor_digest(tokens) for tokens in self._tokens]
        key: list[str | int] = ["generation", *digests, self._config.max_new_tokens]
        key += [tokenizer_digest(loaded.tokenizer), str(end_tokens(loaded.model, loaded.tokenizer))]
        known = (self._context.known.find(*key) or {}).get("texts")
        if not isinstance(known, list) or len(known) != len(self._tokens):
            known = self._continue("full precision")
            self._context.known.keep({"texts": known}, *key)
        self._record("full_precision", [str(text) for text in known])

    def quantized(self) -> None:
        """Make the texts."""
        self._record("quantized", self._continue("quantized"))

    def _continue(self, label: str) -> list[str]:
        context, stage = self._context, f"continuations of {label}"
        context.listener.stage_started(stage, len(self._tokens))
        begun = time.perf_counter()
        texts = continuations(
            context.model,
            context.loaded.tokenizer,
            self._tokens,
            self._config.max_new_tokens,
            context.device,
            context.activation_dtype,
            on_prompt=lambda: context.listener.stage_advanced(stage),
        )
        context.listener.stage_finished(stage, time.perf_counter() - begun)
        return texts

    def _record(self, which: str, texts: list[str]) -> None:
        for prompt, text in zip(self._config.prompts, texts, strict=True):
            self._context.results.set_generation(
                prompt, self._config.max_new_tokens, self._config.chat_template, **{which: text}
            )


def _measures(config: EvalConfig, context: RunContext) -> list[Measure]:
    """Return the measurements that ``config`` asks for.

    Raises:
        ConfigError: one that cannot be made on this model.
    """
    chosen: list[Measure] = [PerplexityMeasure(context, config.perplexity)]
    if config.kv_cache is not None:
        chosen.append(KvCacheMeasure(context, config.kv_cache))
    if team().rank:
        return chosen  # what windows do not divide is process 0's
    if config.agreement is not None and config.agreement_dataset is not None:
        chosen.append(
            AgreementMeasure(context, config.agreement_dataset, config.agreement.max_windows)
        )
    if config.generation is not None:
        chosen.append(GenerationMeasure(context, config.generation))
    if config.zero_shot is not None:
        chosen.append(ZeroShotMeasure(context, config.zero_shot))
    if config.speed is not None:
        chosen.append(SpeedMeasure(context, config.speed))
    return chosen
