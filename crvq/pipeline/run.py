"""One run: from a typed configuration to a complete run record."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import torch

from crvq.checkpoint import BlockStore
from crvq.config import RunConfig
from crvq.errors import ConfigError, QuantizationError
from crvq.methods import Method, create_method
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks
from crvq.models.load import LoadedModel, load_model
from crvq.models.precision import resolve_activation_dtype
from crvq.pipeline.budget import fitted_params, within_budget
from crvq.pipeline.device import resolve_device
from crvq.pipeline.fingerprint import fingerprint, weights_digest
from crvq.pipeline.measure import full_precision_perplexity, measure_perplexity
from crvq.pipeline.texts import RunTexts, read_texts
from crvq.pipeline.walk import BlockWalk
from crvq.sources.cache import cache_folder
from crvq.tracking.events import Listeners, RunListener
from crvq.tracking.log import RunLog
from crvq.tracking.memory import PeakMemory
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record import RunRecord
from crvq.tracking.run_id import run_id
from crvq.tracking.wandb_mirror import WandbMirror
from crvq.weights.bits import BitCount

# What a weight that is not quantized is counted at: half precision, as models are published.
_UNQUANTIZED_BITS = 16


def run_folder(config: RunConfig) -> Path:
    """``<results_dir>/<experiment>/<run_id>``, where a run's record lies."""
    return Path(config.results_dir) / config.experiment / run_id(config)


def run(config: RunConfig, sweep: str | None = None) -> Path:
    """Quantize and evaluate as configured, unless a complete record says that this was done.

    Args:
        config: the whole configuration, typed.
        sweep: name of the multirun that this run belongs to.

    Returns:
        The run's folder, with ``record.json``, ``layers.csv``, ``run.log`` and ``checkpoint/``.

    Raises:
        CrvqError: whatever was wrong; the record holds it too.
    """
    folder = run_folder(config)
    if RunRecord.is_complete(folder) and not config.force:
        return folder
    # Everything about a run that can be refused without work is refused before its record opens.
    device = resolve_device(config.device)
    activation_dtype = resolve_activation_dtype(
        config.activation_dtype, device, getattr(torch, config.model.dtype)
    )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    method = create_method(config.method, config.method_params, config.seed)
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(folder))
        record = RunRecord.start(folder, config, run_id(config), sweep=sweep, fresh=config.force)
        stack.enter_context(record)
        record.set("device", str(device))
        record.set("threads", torch.get_num_threads())
        progress = stack.enter_context(ProgressBar())
        mirror = stack.enter_context(
            WandbMirror(config.tracking, folder, run_id(config), record.data["config"], sweep=sweep)
        )
        listener = Listeners(record, log, progress, mirror)
        with PeakMemory() as memory:
            _work(config, method, device, activation_dtype, record, listener)
        record.set_peak_memory(memory.host_bytes, memory.gpu_bytes)
        record.complete()
        listener.finished(record.data)
    return folder


def _work(
    config: RunConfig,
    method: Method,
    device: torch.device,
    activation_dtype: torch.dtype,
    record: RunRecord,
    listener: RunListener,
) -> None:
    begun = time.perf_counter()
    cache = cache_folder(config.cache_dir)
    loaded = load_model(config.model, cache, device)
    texts = read_texts(config, loaded, cache, calibrates=method.quantizes)
    weights = weights_digest(loaded.model)
    record.set("model_note", config.model.note)
    record.set("full_precision_bits", float(_UNQUANTIZED_BITS))
    record.add_seconds("load", time.perf_counter() - begun)

    begun = time.perf_counter()
    before = full_precision_perplexity(
        loaded.model, weights, texts.evaluation, activation_dtype, cache, listener
    )
    _record_perplexity(record, texts, "full_precision", before)
    record.add_seconds("evaluate", time.perf_counter() - begun)
    if not method.quantizes:
        return

    _quantize(config, method, loaded, texts, weights, activation_dtype, record, listener)

    begun = time.perf_counter()
    after = measure_perplexity(
        loaded.model, texts.evaluation, activation_dtype, "quantized", listener
    )
    _record_perplexity(record, texts, "quantized", after)
    record.add_seconds("evaluate", time.perf_counter() - begun)


def _quantize(
    config: RunConfig,
    method: Method,
    loaded: LoadedModel,
    texts: RunTexts,
    weights: str,
    activation_dtype: torch.dtype,
    record: RunRecord,
    listener: RunListener,
) -> None:
    assert texts.calibration is not None
    begun = time.perf_counter()
    store, dropped = BlockStore.open(
        record.folder / "checkpoint",
        fingerprint(config, weights, texts.calibration, activation_dtype),
        fresh=config.force,
    )
    if dropped is not None:
        listener.message(dropped)
    done = store.whole_blocks()
    record.keep_blocks(range(done))
    if done:
        listener.message(f"going on after {done} blocks that lie packed on disk")
    name, blocks = find_blocks(loaded.model)
    stream = BlockStream(
        loaded.model, blocks, texts.calibration, config.calibration.batch_size, activation_dtype
    )
    walk = BlockWalk(name, blocks, stream, method, store, config, listener)
    shapes = walk.shapes()
    if not shapes:
        raise ConfigError(
            f"model.skip_linears={list(config.model.skip_linears)} leaves no linear of {name} to "
            "quantize; leave some, or set method=full_precision"
        )
    method = within_budget(config, method, shapes)
    walk.use(method)
    record.set_effective(**{**fitted_params(config, method), **method.effective(shapes)})
    walk.survey()
    record.add_seconds("calibrate", time.perf_counter() - begun)
    try:
        walk.run()
    finally:
        record.add_seconds("calibrate", walk.seconds.calibrate)
        record.add_seconds("quantize", walk.seconds.quantize)
    _record_bits(loaded, store, record)


def _record_bits(loaded: LoadedModel, store: BlockStore, record: RunRecord) -> None:
    parts = BitCount()
    quantized = 0
    for row in record.layer_rows:
        parts += BitCount(**row.bit_parts)
        quantized += row.out_features * row.in_features
    if not quantized:
        raise QuantizationError(
            "no linear could be quantized; the notes of the record say why for each of them"
        )
    every = sum(parameter.numel() for parameter in loaded.model.parameters())
    record.set_bits(
        parts.as_dict(),
        quantized_weights=quantized,
        all_weights=every,
        other_weights_bits=float((every - quantized) * _UNQUANTIZED_BITS),
    )
    record.set("packed_bytes", store.tensor_bytes)
    record.set("result_digest", store.digest())


def _record_perplexity(
    record: RunRecord, texts: RunTexts, which: str, values: dict[str, float]
) -> None:
    for name, value in values.items():
        text = texts.evaluation[name]
        windows, context = text.windows.shape
        record.set_perplexity(
            name,
            **{which: value},
            tokens=windows * context,
            context=context,
            windows=windows,
            windows_available=text.available,
            protocol=f"{text.description}; non-overlapping windows, one tokenization",
        )
