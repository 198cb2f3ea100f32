"""What a run would come to, without its weights: bits, disk, memory and time on this machine."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from crvq.config import RunConfig
from crvq.errors import ConfigError, SourceError
from crvq.evaluation.perplexity import GPU_POSITIONS, POSITIONS
from crvq.methods import LinearInput, LinearShape, Method
from crvq.models.blocks import find_blocks
from crvq.models.placement import Shapes, Wanted, free_bytes, peak_memory, shapes_of
from crvq.models.precision import resolve_activation_dtype, resolve_device
from crvq.models.streaming import empty_model
from crvq.pipeline.blockwise import linear_shapes
from crvq.pipeline.context import run_method, tokens_at_once, within_budget
from crvq.sources.cache import cache_folder
from crvq.vq.hessian import Hessian
from crvq.weights.bits import BitCount

_LIBRARIES = 620 * 2**20
"""Resident memory of Python with torch, transformers and this package."""
_BYTES_PER_TOKEN = 1200
"""Of a tokenizer per token of its vocabulary: resident memory of Gemma's, SmolLM2's is less."""
_PROBE_WIDTHS = (256, 1024)
_PROBE_ROWS = (96, 288)
_AROUND_PRODUCTS = 0.8
"""Speed of a whole pass relative to that of its products: attention and norms take the rest."""
_TRAINED_LAYERS = 0.8
"""Seconds of a trained layer relative to those of the probes' random ones, where a method works in
rounds; from SmolLM2-135M."""
_UNLIMITED_WINDOWS = 64
"""Windows of a text that is evaluated in full, where its length is not known yet."""


@dataclass
class Estimate:
    """A prediction for one run."""

    model: str
    method: str
    weights: int
    """In linear layers that are quantized."""
    all_weights: int
    placement: str
    bits: BitCount | None
    """Of all quantized weights; None where the method counts them only when it is done."""
    fitted: dict[str, Any]
    """Parameters that a bit budget led to."""
    memory: dict[str, int]
    """Bytes by part, on the device where blocks compute."""
    device: str
    free: int
    """Bytes that are free there now."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def bits_per_weight(self) -> float | None:
        """Average over quantized weights, everything counted."""
        return None if self.bits is None else self.bits.total / self.weights

    @property
    def disk(self) -> int | None:
        """Bytes of the packed blocks."""
        return None if self.bits is None else int(self.bits.total / 8)


def estimate(config: RunConfig) -> Estimate:
    """Predict a run; reads the model's config, and no weights.

    Raises:
        ConfigError: a budget or pattern that does not fit, or a device that is not there.
        SourceError: nothing is known of the model's shapes.
    """
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.model.dtype]
    model = empty_model(model_config(config), dtype, config.model.trust_remote_code)
    _, blocks = find_blocks(model)
    method = run_method(config, config.method_params)
    shapes: list[LinearShape] = []
    if method.quantizes:
        shapes = linear_shapes(blocks, config.model.skip_linears)
        method = within_budget(config, method, shapes)
    size = shapes_of(model)
    tokens = tokens_at_once(config)
    total = sum(one.numel() for one in model.parameters())
    wanted = Wanted(config.placement, tokens, cache_folder(config.cache_dir) / "hidden_states")
    placement = wanted.resolve(total * dtype.itemsize, size.width, device)
    copies = 2 if config.finetune.block is not None else 1
    memory = {"libraries": _LIBRARIES, **peak_memory(size, placement, tokens, copies)}
    if config.calibration.target_correction and placement != "disk":
        # The full-precision model's hidden states, and its inputs of one block's linear layers.
        looked_at = config.calibration.samples * config.calibration.length
        memory["full-precision inputs"] = 4 * (tokens * size.width + looked_at * sum(size.inputs))
    vocabulary = int(model.config.get_text_config().vocab_size)
    memory |= _memory_of_vocabulary(config, vocabulary, memory, device)
    asked, used = config.method_params.model_dump(), method.params.model_dump()
    found = Estimate(
        model=config.model.name,
        method=config.method,
        weights=sum(one.out_features * one.in_features for one in shapes),
        all_weights=total,
        placement=placement,
        bits=method.count_bits(shapes) if shapes else None,
        fitted={name: value for name, value in used.items() if value != asked.get(name)},
        memory=memory,
        device=str(device),
        free=free_bytes(device),
    )
    found.seconds = _seconds(config, model, size, shapes, method, device)
    return found


def _memory_of_vocabulary(
    config: RunConfig, vocabulary: int, others: dict[str, int], device: torch.device
) -> dict[str, int]:
    """Return the bytes of what grows with the vocabulary.

    Logits are computed when H and what the solver needs are gone: only what they take beyond
    that adds to the peak.

    Args:
        config: of the run.
        vocabulary: how many tokens the model knows.
        others: bytes of the other parts.
        device: where logits are computed.
    """
    positions = POSITIONS if device.type == "cpu" else GPU_POSITIONS
    # Logits, a float32 copy, and cross entropy's logarithms of probabilities.
    logits = 3 * 4 * positions * vocabulary if config.eval.perplexity else 0
    freed = sum(others[part] for part in ("weights of a block", "Hessians", "solver"))
    return {
        "tokenizer": _BYTES_PER_TOKEN * vocabulary if device.type == "cpu" else 0,
        "logits beyond the solver": max(0, logits - freed),
    }


def model_config(config: RunConfig) -> PretrainedConfig:
    """Return transformers' configuration of the run's model.

    From ``model.architecture`` where that is set, else from the model's own config.json.

    Raises:
        SourceError: there is neither.
    """
    chosen = config.model
    if chosen.architecture is not None:
        values = dict(chosen.architecture)
        kind = values.pop("model_type", None)
        if not isinstance(kind, str):
            raise ConfigError("model.architecture needs a model_type, as config.json has it")
        return AutoConfig.for_model(kind, **values)
    where = chosen.path if chosen.source == "path" else chosen.repo
    if where is None or str(where).endswith(".gguf"):
        raise SourceError(
            f"dry_run: the shapes of {chosen.name} are not known before it is read; set "
            "model.architecture={model_type: llama, hidden_size: ..., ...} as config.json has it"
        )
    if chosen.source == "path" and not Path(where).expanduser().is_dir():
        raise SourceError(
            f"dry_run: model.path={where}: there is no such folder; give one with a config.json, "
            "or set model.architecture={model_type: llama, hidden_size: ..., ...} as it has it"
        )
    try:
        return AutoConfig.from_pretrained(
            where, revision=chosen.revision, trust_remote_code=chosen.trust_remote_code
        )
    except Exception as error:  # the hub's client, a missing file, an unknown type
        raise SourceError(
            f"dry_run: config.json of {where} cannot be read ({str(error).splitlines()[0]}); set "
            "model.architecture={model_type: llama, hidden_size: ..., ...} as it has it"
        ) from error


def _seconds(
    config: RunConfig,
    model: PreTrainedModel,
    size: Shapes,
    shapes: list[LinearShape],
    method: Method[Any],
    device: torch.device,
) -> dict[str, float]:
    """Return seconds by stage: counted work times what this machine does in a second."""
    dtype = resolve_activation_dtype(config.activation_dtype, device, model.dtype)
    forward = _product_speed(dtype, device)
    exact = forward if dtype == torch.float32 else _product_speed(torch.float32, device)
    head = size.width * model.config.get_text_config().vocab_size
    every = size.block * size.blocks
    evaluated = sum(
        (text.max_windows or _UNLIMITED_WINDOWS) * text.context
        for text in config.eval.perplexity.values()
    )
    once = 2 * evaluated * (every + head) / forward
    seconds = {"evaluate full precision": once}
    if not shapes:
        return seconds
    calibration = config.calibration
    tokens = calibration.samples * calibration.length
    products = sum(width * width for width in size.inputs) * size.blocks
    # Each block computes twice: for its inputs, and with quantized weights for the next block's.
    passes = config.finetune.windows(calibration) * calibration.length
    seconds["calibrate"] = 2 * (tokens + passes) * every / forward + 2 * tokens * products / exact
    if calibration.target_correction:
        # The full-precision model's pass, and for each input of a block one that ends there: half
        # a block on average. Two products and a Cholesky solve in float64 for each input.
        passing = (passes + tokens * len(size.inputs) / 2) * every
        solving = sum(width**3 for width in size.inputs) * size.blocks
        seconds["calibrate"] += (
            2 * passing / forward + (4 * tokens * products + 5 * solving) / exact
        )
    seconds["quantize"] = _quantize_seconds(method, shapes, size, device)
    if config.finetune.block is not None:
        # Forward and backward, and the codebooks' gradients, which cost about as much again.
        block = config.finetune.block
        seconds["fine-tune blocks"] = 8 * passes * block.epochs * every / exact
    seconds["evaluate quantized"] = once
    return seconds


def _product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return floating-point operations per second of matrix products, measured."""
    a = torch.randn(1024, 1024, device=device).to(dtype)
    b = torch.randn(1024, 1024, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - begun)
    return _AROUND_PRODUCTS * 2 * 1024**3 / best


@dataclass(frozen=True)
class _Cost:
    """Seconds of one thread that a method takes for one random layer, by part."""

    per_input: float
    """Once for all layers that read one input: what is remembered with H, as its factor is."""
    per_layer: float
    """Whatever the out features: as the factor of H in the layer's own order of columns."""
    per_row: float
    """For each out feature."""


def _quantize_seconds(
    method: Method[Any], shapes: list[LinearShape], size: Shapes, device: torch.device
) -> float:
    """Measure the method on small random layers of two widths, and scale to the model's.

    Choosing codes costs ``out * in * (a + b * in)``: products with H take as much per weight as
    there are in features. Factors of H cost ``in³`` however many rows there are.
    """
    narrow, wide = (_probe(method, width, device) for width in _PROBE_WIDTHS)
    low, high = _PROBE_WIDTHS

    def scaled(small: float, large: float, width: int) -> float:
        """``c + d * width³`` through both measurements."""
        d = max(0.0, (large - small) / (high**3 - low**3))
        return max(0.0, small - d * low**3) + d * width**3

    b = max(0.0, (wide.per_row / high - narrow.per_row / low) / (high - low))
    a = max(0.0, narrow.per_row / low - b * low)
    work = sum(s.out_features * s.in_features * (a + b * s.in_features) for s in shapes)
    work += sum(scaled(narrow.per_layer, wide.per_layer, s.in_features) for s in shapes)
    inputs = sum(scaled(narrow.per_input, wide.per_input, width) for width in size.inputs)
    work += size.blocks * inputs
    if device.type == "cuda":
        return work
    return work / max(1, min(torch.get_num_threads(), 7))


def _probe(method: Method[Any], width: int, device: torch.device) -> _Cost:
    """Measure one thread on random layers of a width: few rows, the same again, more rows.

    The second layer finds what the first one left with H; the third tells rows from the rest.
    """
    generator = torch.Generator().manual_seed(width)
    inputs = torch.randn(2 * width, width, generator=generator)
    inputs *= torch.rand(width, generator=generator) + 0.2
    second = (inputs.T @ inputs / len(inputs)).to(device)
    few, more = _PROBE_ROWS
    weight = torch.randn(more, width, generator=generator).to(device) / width**0.5
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        for _ in range(2):  # the first time compiles kernels
            hessian = Hessian(second.clone())
            first, again, whole = (
                _layer_seconds(method, weight[:rows], hessian, len(inputs))
                for rows in (few, few, more)
            )
    finally:
        torch.set_num_threads(threads)
    per_row = max(0.0, whole - again) / (more - few)
    return _Cost(max(0.0, first - again), max(0.0, again - few * per_row), per_row)


def _layer_seconds(
    method: Method[Any], weight: torch.Tensor, hessian: Hessian, tokens: int
) -> float:
    """Return the seconds that a method takes for a layer; of the processor, if it works there."""
    clock = time.perf_counter if weight.is_cuda else time.process_time
    linear = LinearInput("probe.mlp", "mlp", weight, hessian, 1, tokens)
    begun = clock()
    (made,) = method.quantize_block(0, [linear])
    if weight.is_cuda:
        torch.cuda.synchronize(weight.device)
    seconds = clock() - begun
    return seconds * (_TRAINED_LAYERS if made.rounds > 1 else 1.0)


def free_disk(folder: str) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def host_memory() -> tuple[int, int]:
    """Return free and installed host memory in bytes."""
    found = psutil.virtual_memory()
    return int(found.available), int(found.total)
