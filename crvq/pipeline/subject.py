"""The model under evaluation, and all that measuring it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from crvq.models.load import LoadedModel
from crvq.pipeline.known_results import KnownResults
from crvq.pipeline.texts import EvaluationText
from crvq.tracking.events import RunListener
from crvq.tracking.record import RunRecord


@dataclass(frozen=True)
class Subject:
    """What a `Measure` measures on, and where it says so."""

    loaded: LoadedModel
    weights: str
    """`model_digest` of the full-precision model."""
    texts: dict[str, EvaluationText]
    """Windows by dataset of ``eval.perplexity``."""
    activation_dtype: torch.dtype
    cache: Path
    """Cache folder."""
    record: RunRecord
    listener: RunListener

    @property
    def model(self) -> PreTrainedModel:
        """The model as it is now."""
        return self.loaded.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def known(self) -> KnownResults:
        """Full-precision results of earlier runs with these weights, type, device and versions."""
        return KnownResults(self.cache, self.weights, self.activation_dtype, self.device)


class Measure(Protocol):
    """One kind of measurement; each call measures the model as it is then and records it."""

    def full_precision(self) -> None:
        """Before quantization: what is known of the same weights need not be measured again."""

    def quantized(self) -> None:
        """After quantization."""
