"""Calibration and evaluation windows, checked against each other before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crvq.config import RunConfig, TextConfig
from crvq.data.bos import Bos, resolve_bos
from crvq.data.documents import Documents
from crvq.data.evaluation_windows import cut_windows
from crvq.data.overlap import assert_disjoint
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.data.windows import calibration_windows, check_context
from crvq.errors import CrvqError
from crvq.models.context import context_limit
from crvq.models.load import LoadedModel


@dataclass(frozen=True)
class EvaluationText:
    """Windows of one dataset, and how they came about."""

    windows: Tensor
    """``(windows, context)`` token ids."""
    available: int | None
    """Windows that the whole text has; None for drawn ones."""
    description: str
    """Where the text came from."""
    overlap: int = 0
    """Tokens of a window that the one before has scored already."""
    scored_bytes: int | None = None
    """UTF-8 bytes that the scored tokens stand for; None if the tokenizer cannot say."""
    protocol: str = "windows do not overlap"
    bos: Bos = "none"
    """Whether each window begins with BOS."""

    @property
    def scored_tokens(self) -> int:
        """All tokens but each window's first, each once."""
        windows, context = self.windows.shape
        return context - 1 + (windows - 1) * (context - max(1, self.overlap))


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
    kind = str(loaded.model.config.get_text_config().model_type)
    if calibrates:
        check_context(config.calibration.length, limit, "calibration.length")
    for name, dataset in config.eval.perplexity.items():
        check_context(dataset.context, limit, f"eval.perplexity.{name}.context")
    calibration, description = None, "none"
    if calibrates:
        # Text that is made to measure must do for fine-tuning as well.
        wanted = {"samples": config.finetune.windows(config.calibration)}
        source = config.calibration.model_copy(update=wanted)
        documents = _documents(source, cache, loaded, "calibration")
        bos = resolve_bos(config.calibration.bos, loaded.tokenizer, kind, "calibration.bos")
        tokens = tokenize(documents, loaded.tokenizer, special_tokens=bos == "none")
        begin = loaded.tokenizer.bos_token_id if bos == "each_window" else None
        calibration = _calibration_windows(config, tokens, begin)
        description = documents.description
    evaluation = {}
    for name, dataset in config.eval.perplexity.items():
        key = f"eval.perplexity.{name}"
        documents = _documents(dataset, cache, loaded, key)
        cut = cut_windows(documents, loaded.tokenizer, dataset, key, kind)
        if calibration is not None:
            assert_disjoint(calibration, cut.ids, "calibration", key)
        evaluation[name] = EvaluationText(
            cut.ids,
            cut.available,
            documents.description,
            cut.overlap,
            cut.scored_bytes,
            cut.protocol,
            cut.bos,
        )
    return RunTexts(calibration, description, evaluation)


def _calibration_windows(config: RunConfig, tokens: Tensor, bos: int | None) -> Tensor:
    """Windows for statistics, and for fine-tuning as well where that wants more."""
    calibration = config.calibration
    samples = config.finetune.windows(calibration)
    length = calibration.length - (bos is not None)  # tokens of text in a window
    more = samples > calibration.samples <= len(tokens) // length
    key = "finetune" if more else "calibration"
    return calibration_windows(tokens, samples, calibration.length, calibration.seed, key, bos)


def _documents(config: TextConfig, cache: Path, loaded: LoadedModel, key: str) -> Documents:
    """Return the documents of a text; an error names the key that asked for it."""
    try:
        return load_documents(config, cache, loaded)
    except CrvqError as error:
        raise type(error)(f"{key}: {error}") from error
