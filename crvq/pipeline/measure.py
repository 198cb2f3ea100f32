"""Perplexity of a run's model on all its datasets, full precision remembered between runs."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from crvq.evaluation.perplexity import perplexity
from crvq.files.atomic import write_json
from crvq.pipeline.fingerprint import tensor_digest
from crvq.pipeline.texts import EvaluationText
from crvq.tracking.events import RunListener


def measure_perplexity(
    model: PreTrainedModel,
    texts: dict[str, EvaluationText],
    activation_dtype: torch.dtype,
    label: str,
    listener: RunListener,
) -> dict[str, float]:
    """Perplexity by dataset.

    Args:
        model: as it is now.
        texts: windows by dataset.
        activation_dtype: type of forward passes.
        label: what is measured, for progress: ``full precision`` or ``quantized``.
        listener: hears of each window.
    """
    device = next(model.parameters()).device
    results = {}
    for name, text in texts.items():
        stage = f"perplexity of {label} on {name}"
        listener.stage_started(stage, len(text.windows))
        begun = time.perf_counter()
        result = perplexity(
            model,
            text.windows,
            device,
            activation_dtype,
            on_window=lambda stage=stage: listener.stage_advanced(stage),  # type: ignore[misc]
        )
        results[name] = result.perplexity
        listener.stage_finished(stage, time.perf_counter() - begun)
    return results


def full_precision_perplexity(
    model: PreTrainedModel,
    weights: str,
    texts: dict[str, EvaluationText],
    activation_dtype: torch.dtype,
    cache: Path,
    listener: RunListener,
) -> dict[str, float]:
    """As `measure_perplexity`, but a dataset measured before is looked up.

    The key holds all that the number depends on: weights, tokens, type, device, versions.

    Args:
        model: in full precision.
        weights: digest of its weights.
        texts: windows by dataset.
        activation_dtype: type of forward passes.
        cache: cache folder.
        listener: hears of progress.
    """
    device = next(model.parameters()).device
    files = {
        name: cache / "full_precision" / f"{_key(weights, text, activation_dtype, device)}.json"
        for name, text in texts.items()
    }
    known = {name: value for name, file in files.items() if (value := _read(file)) is not None}
    missing = {name: text for name, text in texts.items() if name not in known}
    found = measure_perplexity(model, missing, activation_dtype, "full precision", listener)
    for name, value in found.items():
        if math.isfinite(value):  # JSON cannot say infinity, and a broken model is rare
            write_json(files[name], {"perplexity": value, "dataset": texts[name].description})
    if known:
        listener.message(
            f"full-precision perplexity on {', '.join(known)} is known from an earlier run"
        )
    return {name: {**known, **found}[name] for name in texts}


def _key(
    weights: str, text: EvaluationText, activation_dtype: torch.dtype, device: torch.device
) -> str:
    parts: list[Any] = [
        weights,
        tensor_digest(text.windows),
        str(activation_dtype),
        device.type,
        torch.__version__,
        transformers.__version__,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> float | None:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["perplexity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
