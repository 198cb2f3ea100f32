"""All that the stages of a run share, loaded and checked before its record is opened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crvq.config import RunConfig, TextConfig
from crvq.config.strict import StrictModel
from crvq.data.bos import Bos, resolve_bos
from crvq.data.documents import Documents
from crvq.data.evaluation_windows import cut_windows
from crvq.data.overlap import assert_disjoint
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.data.windows import calibration_windows, check_context
from crvq.errors import ConfigError, CrvqError
from crvq.methods import LinearShape, Method, create_method
from crvq.methods.allocated import AllocatedMethod
from crvq.methods.budget import BudgetError
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.overridden import OverriddenMethod, check_patterns
from crvq.methods.registry import method_quantizes
from crvq.methods.rotated import RotatedMethod
from crvq.models.blocks import find_blocks
from crvq.models.load import LoadedModel, context_limit, load_model
from crvq.models.placement import Wanted
from crvq.models.precision import resolve_activation_dtype, resolve_device
from crvq.models.residence import Residence, model_device
from crvq.pipeline.fingerprint import KnownResults, model_digest
from crvq.sources.cache import cache_folder
from crvq.team import team
from crvq.tracking.events import RunListener
from crvq.tracking.record_values import RecordValues


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


def run_method(config: RunConfig, params: StrictModel) -> Method:
    """Return the run's method with some parameters, in a rotated basis where that is asked for."""
    allocated = isinstance(params, CrvqParams) and params.allocation == "model"
    if config.overrides and allocated:
        raise ConfigError(
            "crvq.allocation=model chooses each linear's codes, and overrides do so too; set one "
            "of them"
        )
    if config.overrides:
        method: Method = OverriddenMethod(config.method, params, config.overrides, config.seed)
    elif allocated:
        assert isinstance(params, CrvqParams)
        method = AllocatedMethod(params, config.seed)
    else:
        method = create_method(config.method, params, config.seed)
    if not config.rotation.asked or not method.quantizes:
        return method
    return RotatedMethod(method, config.rotation)


def within_budget(config: RunConfig, method: Method, shapes: Sequence[LinearShape]) -> Method:
    """Return the method with the parameters that its rule finds for the budget; itself without one.

    With ``budget.if_infeasible=nearest`` a budget infeasible becomes the nearest in reach.

    Raises:
        ConfigError: the method has no rule, or the budget is out of its reach (`BudgetError`).
    """
    if config.budget.bits is None:
        return method
    if not method.fits_budgets:
        raise ConfigError(
            f"budget.bits={config.budget.bits:g}: method {config.method} has no rule for a budget; "
            "set budget=layout"
        )
    try:
        fitted = method.fit_budget(config.budget.bits, shapes)
    except BudgetError as error:
        if config.budget.if_infeasible == "error":
            raise
        fitted = method.fit_budget(error.nearest, shapes)
    return run_method(config, fitted)


def fitted_params(config: RunConfig, method: Method) -> dict[str, Any]:
    """Return the parameters that a budget changed, for the record's ``effective``."""
    used = getattr(method, "params", None)
    if config.budget.bits is None or used is None:
        return {}
    asked = config.method_params.model_dump()
    return {name: value for name, value in used.model_dump().items() if value != asked[name]}


@dataclass
class RunContext:
    """The model, the texts and the settings of one run, and where its results go."""

    config: RunConfig
    loaded: LoadedModel
    texts: RunTexts
    method: Method
    """With the parameters that a bit budget led to."""
    shapes: list[LinearShape]
    """Of all linear layers that will be quantized; empty for a method that quantizes none."""
    activation_dtype: torch.dtype
    """Type of forward passes."""
    cache: Path
    """Folder of downloads and of results that other runs can use."""
    load_seconds: float = 0.0
    results: RecordValues = field(init=False)
    """Where results are recorded; set when the record is opened."""
    listener: RunListener = field(default_factory=RunListener)
    """Hears of progress."""
    folder: Path | None = None
    """Where packed blocks are stored; None: they stay in memory."""

    @property
    def model(self) -> PreTrainedModel:
        """The model as it is now."""
        return self.loaded.model

    @property
    def residence(self) -> Residence:
        """Where the model's blocks are."""
        return self.loaded.residence

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return model_device(self.model)

    @cached_property
    def weights(self) -> str:
        """Digest of the full-precision model; first asked for before any weight changes."""
        return model_digest(self.model, self.residence)

    @cached_property
    def blocks(self) -> tuple[str, list[nn.Module]]:
        """The name of the model's list of blocks, and the blocks."""
        name, blocks = find_blocks(self.model)
        return name, list(blocks)

    @cached_property
    def known(self) -> KnownResults:
        """Full-precision results of earlier runs with this model, type, device and versions."""
        return KnownResults(self.cache, self.weights, self.activation_dtype, self.device)

    @property
    def evaluation_texts(self) -> dict[str, EvaluationText]:
        """Windows by dataset of ``eval.perplexity``."""
        return self.texts.evaluation

    @property
    def fitted(self) -> dict[str, object]:
        """The method's parameters that a bit budget changed."""
        return fitted_params(self.config, self.method)

    def open(self, results: RecordValues, listener: RunListener, folder: Path | None) -> None:
        """Say where results go and who hears of progress."""
        self.results, self.listener, self.folder = results, listener, folder


def prepare(config: RunConfig, asked: RunConfig | None = None) -> RunContext:
    """Load the model and the texts of a run, and refuse what cannot be done.

    Nothing is written but caches.

    Args:
        config: of the run whose model is meant.
        asked: of the command, if that is another: where and on what it computes.

    Raises:
        CrvqError: a device, model, text, budget or context that cannot be used.
    """
    asked = asked or config
    device = resolve_device(asked.device)
    activation_dtype = resolve_activation_dtype(
        asked.activation_dtype, device, getattr(torch, config.model.dtype)
    )
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    torch.manual_seed(config.seed)
    cache = cache_folder(asked.cache_dir)
    begun = time.perf_counter()
    block = config.finetune.block
    if team().size > 1 and block is not None and block.codes is not None:
        raise ConfigError(
            f"finetune.block.codes: codes change in one process only, and torchrun started "
            f"{team().size}; set finetune=block, or start one process"
        )
    if asked.placement in ("host", "disk") and config.finetune.end_to_end is not None:
        raise ConfigError(
            f"placement={asked.placement}: end-to-end fine-tuning trains all blocks at once, so "
            "the whole model must be in memory; set placement=device, or finetune=block"
        )
    wanted = Wanted(
        "device" if config.finetune.end_to_end is not None else asked.placement,
        tokens_at_once(config),
        cache / "hidden_states",
    )
    loaded = load_model(config.model, cache, device, wanted)
    texts = read_texts(config, loaded, cache, calibrates=method_quantizes(config.method))
    context = in_context(config, loaded, texts, activation_dtype, cache)
    context.load_seconds = time.perf_counter() - begun
    return context


def tokens_at_once(config: RunConfig) -> int:
    """Return an upper limit of the tokens whose hidden states are held at once."""
    calibration = config.finetune.windows(config.calibration) * config.calibration.length
    # Fine-tuning holds the targets too.
    calibration *= 2 if config.finetune.block is not None else 1
    unlimited = 256
    evaluated = [
        (dataset.max_windows or unlimited) * dataset.context
        for dataset in config.eval.perplexity.values()
    ]
    return max([calibration, *evaluated])


def in_context(
    config: RunConfig,
    loaded: LoadedModel,
    texts: RunTexts,
    activation_dtype: torch.dtype,
    cache: Path,
) -> RunContext:
    """Put a loaded model, its texts and a configuration together.

    Raises:
        ConfigError: no linear layer is left to quantize, or the bit budget is infeasible.
    """
    from crvq.pipeline.blockwise import linear_names, linear_shapes

    method = run_method(config, config.method_params)
    shapes: list[LinearShape] = []
    if method.quantizes:
        name, blocks = find_blocks(loaded.model)
        shapes = linear_shapes(blocks, config.model.skip_linears)
        if not shapes:
            raise ConfigError(
                f"model.skip_linears={list(config.model.skip_linears)} leaves no linear layer of "
                f"{name} to quantize; leave some, or set method=full_precision"
            )
        check_patterns(
            config.overrides or {}, linear_names(name, blocks, config.model.skip_linears)
        )
        method = within_budget(config, method, shapes)
    context = RunContext(config, loaded, texts, method, shapes, activation_dtype, cache)
    _ = context.weights  # the digest of the full-precision weights, while they are that
    return context
