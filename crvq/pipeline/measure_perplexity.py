"""Perplexity of a run's model on its datasets."""

from __future__ import annotations

import math
import time

from crvq.config import PerplexityConfig
from crvq.evaluation.perplexity import bits_per_byte, perplexity
from crvq.pipeline.fingerprint import tensor_digest
from crvq.pipeline.subject import Subject
from crvq.pipeline.texts import EvaluationText


class PerplexityMeasure:
    """Perplexity and bits per byte on each dataset, full precision remembered between runs.

    Args:
        subject: what is measured on; its texts hold all of ``datasets``.
        datasets: configurations by name.
    """

    def __init__(self, subject: Subject, datasets: dict[str, PerplexityConfig]) -> None:
        self._subject, self._datasets = subject, datasets

    def full_precision(self) -> None:
        """Look each dataset up; measure and remember those that are not known."""
        known = []
        for name in self._datasets:
            text = self._subject.texts[name]
            key = ("perplexity", tensor_digest(text.windows), text.overlap)
            value = _number((self._subject.known.find(*key) or {}).get("perplexity"))
            if value is not None:
                known.append(name)
            else:
                value = self._measure(name, "full precision")
                if math.isfinite(value):  # JSON cannot say infinity, and a broken model is rare
                    told = {"perplexity": value, "dataset": text.description}
                    self._subject.known.keep(told, *key)
            self._record(name, "full_precision", value)
        if known:
            self._subject.listener.message(
                f"full-precision perplexity on {', '.join(known)} is known from an earlier run"
            )

    def quantized(self) -> None:
        """Measure each dataset."""
        for name in self._datasets:
            self._record(name, "quantized", self._measure(name, "quantized"))

    def _measure(self, name: str, label: str) -> float:
        subject, text = self._subject, self._subject.texts[name]
        stage = f"perplexity of {label} on {name}"
        subject.listener.stage_started(stage, len(text.windows))
        begun = time.perf_counter()
        result = perplexity(
            subject.model,
            text.windows,
            subject.device,
            subject.activation_dtype,
            on_window=lambda: subject.listener.stage_advanced(stage),
            overlap=text.overlap,
        )
        subject.listener.stage_finished(stage, time.perf_counter() - begun)
        return result.perplexity

    def _record(self, name: str, which: str, value: float) -> None:
        text, config = self._subject.texts[name], self._datasets[name]
        values = {which: value}
        if text.scored_bytes:
            values[f"{which}_bits_per_byte"] = bits_per_byte(
                value, text.scored_tokens, text.scored_bytes
            )
        self._subject.record.set_perplexity(name, **values, **described(text), stride=config.stride)


def described(text: EvaluationText) -> dict[str, object]:
    """What a record says of a dataset beside its numbers."""
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
