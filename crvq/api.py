"""Quantize a model in memory: ``crvq.quantize``, without records, Hydra or W&B.

It is the pipeline of ``python run.py`` with nothing around it: packed blocks go to a temporary
folder, results to an object.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crvq.config import CalibrationConfig, ModelConfig, RunConfig
from crvq.config.finetune import FinetuneConfig, check_finetune
from crvq.config.presets import finetune_preset, method_preset
from crvq.config.rotation import RotationConfig
from crvq.config.run import BudgetConfig
from crvq.config.strict import StrictModel
from crvq.data.bos import resolve_bos
from crvq.data.documents import Documents, require_text
from crvq.data.tokens import tokenize
from crvq.data.windows import calibration_windows, check_context
from crvq.errors import ConfigError, QuantizationError
from crvq.methods.catalog import CATALOG
from crvq.methods.registry import outside_methods
from crvq.models.load import LoadedModel, context_limit
from crvq.models.precision import resolve_activation_dtype
from crvq.pipeline.context import RunContext, RunTexts, in_context
from crvq.pipeline.quantize import quantize as quantize_context
from crvq.pipeline.run_folder import CHECKPOINT
from crvq.sources.cache import cache_folder
from crvq.tracking.events import LayerRow, Listeners, RunListener
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record_values import RecordValues, blank_record
from crvq.tracking.run_id import run_id


@dataclass
class QuantizationResult:
    """A quantized model, what it weighs, and how its layers fared."""

    model: PreTrainedModel
    """The model that was given, its weights replaced by the quantized ones, dequantized."""
    tokenizer: PreTrainedTokenizerBase
    record: dict[str, Any]
    """Configuration, bits by part, seconds and notes, as in a run's ``record.json``."""
    layers: list[LayerRow]
    """One row per linear layer: loss, relative loss, bits."""
    folder: Path
    """Of the packed blocks; temporary, gone with this object."""
    _temporary: tempfile.TemporaryDirectory[str]

    @property
    def bits_per_weight(self) -> float:
        """Average bits per quantized weight: codes, codebooks, scales and permutation counted."""
        return float(self.record["bits"]["average_quantized_weights"])

    def save(self, folder: str | Path) -> Path:
        """Write the packed model as a Hugging Face folder, which `crvq.load` reads.

        Args:
            folder: must not exist, or be empty.

        Returns:
            The folder.
        """
        from crvq.export import save_result

        return save_result(self, Path(folder))


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: str | StrictModel = "crvq",
    *,
    text: str | Sequence[str] | Tensor,
    bits: float | None = None,
    rotation: str | RotationConfig = "none",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    samples: int = 8,
    length: int | None = None,
    finetune: str | FinetuneConfig | None = None,
    seed: int = 0,
    skip: Sequence[str] = (),
    activation_dtype: str = "auto",
    cache_dir: str | None = None,
    callbacks: Sequence[RunListener] = (),
    progress: bool = True,
) -> QuantizationResult:
    """Quantize a loaded model in place.

    Args:
        model: a causal language model of transformers, on the device to compute on.
        tokenizer: the model's.
        method: a preset by name (``crvq_1bit``, ``aqlm_2x8g8``, any file of ``conf/method``), or
            a method's typed parameters (``CrvqParams(critical_ratio=0.01)``).
        text: to calibrate on: a text, several documents, or token windows ``(samples, length)``.
        bits: average bits per quantized weight to aim for, everything counted; None: as the
            method's parameters say.
        rotation: ``none``, ``hadamard``, ``block_hadamard``, or a typed configuration: the basis in
            which the method works.
        overrides: other parameters of the method for some linear layers, by pattern of their full
            name: ``{"*.down_proj": {"codebook_bits": 10}}``.
        samples: windows drawn from the text; fine-tuning may draw more.
        length: tokens per window; None: 1024, or the model's context if that is shorter.
        finetune: a preset by name (``block``, ``block_e2e``), a typed configuration, or None.
        seed: of everything that is drawn.
        skip: name endings of linear layers that stay in full precision.
        activation_dtype: ``auto``, ``float32`` or ``bfloat16``, of forward passes.
        cache_dir: where a teacher's predictions are kept; None: the user's cache folder.
        callbacks: hear of progress (`crvq.tracking.events.RunListener`).
        progress: show a progress bar.

    Raises:
        ConfigError: something that cannot be used; names the argument.
        QuantizationError: an input or weight that is not finite, or a device out of memory.
    """
    name, params = _method(method)
    tuning = finetune_preset(finetune) if isinstance(finetune, str) else finetune
    windows = text if isinstance(text, Tensor) else None
    if windows is not None:
        _check_windows(windows, model)
        samples, length = len(windows), windows.shape[1]
    limit = context_limit(model)
    length = length or min(1024, limit or 1024)
    check_context(length, limit, "length")
    config = RunConfig(
        seed=seed,
        device=str(next(model.parameters()).device),
        activation_dtype=activation_dtype,
        model=ModelConfig(
            name=Path(str(model.config.name_or_path or model.config.model_type)).name,
            source="memory",
            skip_linears=tuple(skip),
        ),
        budget=BudgetConfig(bits=bits),
        method=name,
        method_params=params,
        overrides={pattern: dict(values) for pattern, values in (overrides or {}).items()},
        rotation=(
            rotation if isinstance(rotation, RotationConfig) else RotationConfig(kind=rotation)
        ),
        calibration=CalibrationConfig(samples=samples, length=length, seed=seed),
        finetune=tuning or FinetuneConfig(),
    )
    check_finetune(config.finetune, config.calibration)
    if windows is None:
        windows = _windows(text, tokenizer, model, config)
    context = _context(config, model, tokenizer, windows, cache_dir)
    return _run(context, callbacks, progress)


def _method(method: str | StrictModel) -> tuple[str, StrictModel]:
    if isinstance(method, str):
        return method_preset(method)
    for name, entry in CATALOG.items():
        if type(method) is entry.params:
            return name, method
    for name, outside in outside_methods().items():
        if type(method) is outside.Params:
            return name, method
    raise ConfigError(
        f"method={method!r}: give the name of a preset, or the typed parameters of a method, such "
        "as crvq.methods.crvq_params.CrvqParams()"
    )


def _check_windows(windows: Tensor, model: PreTrainedModel) -> None:
    vocabulary = int(model.config.get_text_config().vocab_size)
    if windows.dim() != 2 or windows.dtype not in (torch.int64, torch.int32):
        raise ConfigError(
            f"text: token windows must be integers of shape (samples, length), not "
            f"{windows.dtype} {tuple(windows.shape)}"
        )
    if len(windows) and not 0 <= int(windows.min()) <= int(windows.max()) < vocabulary:
        raise ConfigError(
            f"text: token ids must be from 0 to {vocabulary - 1}; these are from "
            f"{int(windows.min())} to {int(windows.max())}"
        )


def _windows(
    text: str | Sequence[str] | Tensor,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    config: RunConfig,
) -> Tensor:
    assert not isinstance(text, Tensor)
    documents = Documents([text] if isinstance(text, str) else list(text), "text given in Python")
    require_text(documents)
    kind = str(model.config.get_text_config().model_type)
    bos = resolve_bos(config.calibration.bos, tokenizer, kind, "bos")
    tokens = tokenize(documents, tokenizer, special_tokens=bos == "none")
    begin = tokenizer.bos_token_id if bos == "each_window" else None
    calibration = config.calibration
    count = config.finetune.windows(calibration)
    return calibration_windows(tokens, count, calibration.length, calibration.seed, "text", begin)


def _context(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Tensor,
    cache_dir: str | None,
) -> RunContext:
    model.eval().requires_grad_(False)
    device = next(model.parameters()).device
    dtype = resolve_activation_dtype(
        config.activation_dtype, device, next(model.parameters()).dtype
    )
    return in_context(
        config,
        LoadedModel(model, tokenizer, "a model in memory"),
        RunTexts(windows.long(), "text given in Python", {}),
        dtype,
        cache_folder(cache_dir),
    )


def _run(
    context: RunContext, callbacks: Sequence[RunListener], progress: bool
) -> QuantizationResult:
    if not context.method.quantizes:
        raise QuantizationError(f"method={context.config.method} quantizes nothing")
    temporary = tempfile.TemporaryDirectory(prefix="crvq-")
    folder = Path(temporary.name)
    config = context.config
    values = RecordValues(blank_record(config, run_id(config), "python"))
    begun = time.perf_counter()
    with ProgressBar() as bar:
        listeners = [values, *([bar] if progress else []), *callbacks]
        context.open(values, Listeners(*listeners), folder)
        quantize_context(context)
    values.set("seconds", {**values.data["seconds"], "all": time.perf_counter() - begun})
    values.complete()
    return QuantizationResult(
        model=context.model,
        tokenizer=context.loaded.tokenizer,
        record=values.data,
        layers=values.layer_rows,
        folder=folder / CHECKPOINT,
        _temporary=temporary,
    )
