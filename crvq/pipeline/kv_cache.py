"""Perplexity with a quantized key-value cache, of full precision and of the quantized model."""

from __future__ import annotations

import math
import time

from crvq.errors import ConfigError
from crvq.evaluation.kv_cache import (
    REVISION,
    KvCacheKind,
    cache_bits,
    cache_projections,
    quantized_cache,
)
from crvq.evaluation.perplexity import perplexity
from crvq.pipeline.context import RunContext
from crvq.pipeline.fingerprint import tensor_digest
from crvq.team import team


class KvCacheMeasure:
    """Measures every text of a run again while attention reads a quantized cache.

    Args:
        context: of the run.
        kind: of the cache.

    Raises:
        ConfigError: the model's keys and values are not layers of their own.
    """

    def __init__(self, context: RunContext, kind: KvCacheKind) -> None:
        self._context, self._kind = context, kind
        found = cache_projections(context.model)
        if not found:
            raise ConfigError(
                f"eval.kv_cache={kind}: a {type(context.model).__name__} has no k_proj and v_proj "
                "layers whose outputs a cache would hold; set eval.kv_cache=none"
            )
        self._channels = {int(module.out_features) for module in found.values()}  # type: ignore[arg-type]

    def full_precision(self) -> None:
        """Measure, or look up what an earlier run measured."""
        context = self._context
        for name, text in context.evaluation_texts.items():
            key = ("kv_cache", self._kind, REVISION, tensor_digest(text.windows), text.overlap)
            known = (context.known.find(*key) or {}).get("perplexity")
            value = float(known) if isinstance(known, (int, float)) else None
            if not team().agree(value is not None) or value is None:
                value = self._measure(name, "full precision")
                if math.isfinite(value):
                    context.known.keep({"perplexity": value, "dataset": text.description}, *key)
            self._record(name, "full_precision", value)

    def quantized(self) -> None:
        """Measure."""
        for name in self._context.evaluation_texts:
            self._record(name, "quantized", self._measure(name, "quantized"))

    def _measure(self, name: str, label: str) -> float:
        context, text = self._context, self._context.evaluation_texts[name]
        stage = f"perplexity of {label} on {name}, cache {self._kind}"
        own = team().mine(len(text.windows))
        context.listener.stage_started(stage, len(own))
        begun = time.perf_counter()
        computed = context.residence.computed(
            text.windows[list(own)], context.activation_dtype, lambda _: None
        )
        with quantized_cache(context.model), computed:
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
        windows, length = self._context.evaluation_texts[name].windows.shape
        bits = [cache_bits(channels, length) for channels in self._channels]
        self._context.results.set_kv_cache(
            name,
            which,
            value,
            kind=self._kind,
            bits=sum(bits) / len(bits),
            windows=windows,
            context=length,
        )
