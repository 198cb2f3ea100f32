"""Calibration and evaluation windows, checked against each other before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crvq.config import RunConfig, TextConfig
from crvq.data.documents import Documents
from crvq.data.overlap import assert_disjoint
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.data.windows import calibration_windows, check_context, evaluation_windows
from crvq.errors import CrvqError
from crvq.models.context import context_limit
from crvq.models.load import LoadedModel


@dataclass(frozen=True)
class EvaluationText:
    """Windows of one dataset, and how they came about."""

    windows: Tensor
    """``(windows, context)`` token ids."""
    available: int
    """Windows that the whole text has."""
    description: str


@dataclass(frozen=True)
class RunTexts:
    """All text of a run."""

    calibration: Tensor | None
    """``(samples, length)`` token ids; None for a method that needs none."""
    calibration_description: str
    evaluation: dict[str, EvaluationText]


def read_texts(
    config: RunConfig, loaded: LoadedModel, cache: Path, calibrates: bool = True
) -> RunTexts:
    """Read, tokenize and cut all text of a run.

    Raises:
        ConfigError: a text too short, a context above the model's, or shared text.
        SourceError: a text that is missing, empty or unreachable.
    """
    limit = context_limit(loaded.model)
    check_context(config.calibration.length, limit, "calibration.length")
    for name, dataset in config.eval.perplexity.items():
        check_context(dataset.context, limit, f"eval.perplexity.{name}.context")
    calibration, description = None, "none"
    if calibrates:
        documents = _documents(config.calibration, cache, "calibration")
        tokens = tokenize(documents, loaded.tokenizer)
        calibration = calibration_windows(
            tokens, config.calibration.samples, config.calibration.length, config.calibration.seed
        )
        description = documents.description
    evaluation = {}
    for name, dataset in config.eval.perplexity.items():
        key = f"eval.perplexity.{name}"
        documents = _documents(dataset, cache, key)
        tokens = tokenize(documents, loaded.tokenizer)
        windows = evaluation_windows(tokens, dataset.context, dataset.max_windows, key)
        if calibration is not None:
            assert_disjoint(calibration, windows, "calibration", key)
        available = len(tokens) // dataset.context
        evaluation[name] = EvaluationText(windows, available, documents.description)
    return RunTexts(calibration, description, evaluation)


def _documents(config: TextConfig, cache: Path, key: str) -> Documents:
    """The documents of a text; an error names the key that asked for it."""
    try:
        return load_documents(config, cache)
    except CrvqError as error:
        raise type(error)(f"{key}: {error}") from error
