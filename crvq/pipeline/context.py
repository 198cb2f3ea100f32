"""All that the stages of a run share, loaded and checked before its record is opened."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.methods import LinearShape, Method, create_method
from crvq.methods.registry import method_quantizes
from crvq.models.blocks import find_blocks
from crvq.models.load import LoadedModel, load_model
from crvq.models.precision import resolve_activation_dtype
from crvq.pipeline.budget import fitted_params, within_budget
from crvq.pipeline.device import resolve_device
from crvq.pipeline.fingerprint import model_digest
from crvq.pipeline.known_results import KnownResults
from crvq.pipeline.texts import EvaluationText, RunTexts, read_texts
from crvq.sources.cache import cache_folder
from crvq.tracking.events import RunListener
from crvq.tracking.record_values import RecordValues


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
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def weights(self) -> str:
        """Digest of the full-precision model; first asked for before any weight changes."""
        return model_digest(self.model)

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
    loaded = load_model(config.model, cache, device)
    texts = read_texts(config, loaded, cache, calibrates=method_quantizes(config.method))
    context = in_context(config, loaded, texts, activation_dtype, cache)
    context.load_seconds = time.perf_counter() - begun
    return context


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
    from crvq.pipeline.blockwise import linear_shapes

    method = create_method(config.method, config.method_params, config.seed)
    shapes: list[LinearShape] = []
    if method.quantizes:
        name, blocks = find_blocks(loaded.model)
        shapes = linear_shapes(blocks, config.model.skip_linears)
        if not shapes:
            raise ConfigError(
                f"model.skip_linears={list(config.model.skip_linears)} leaves no linear layer of "
                f"{name} to quantize; leave some, or set method=full_precision"
            )
        method = within_budget(config, method, shapes)
    context = RunContext(config, loaded, texts, method, shapes, activation_dtype, cache)
    _ = context.weights  # the digest of the full-precision weights, while they are that
    return context
