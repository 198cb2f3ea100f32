"""One run: from a typed configuration to a complete run record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from crvq.checkpoint import BlockStore
from crvq.config import RunConfig
from crvq.errors import ConfigError, QuantizationError
from crvq.finetune.windows import walk_windows
from crvq.methods import Method, create_method
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks
from crvq.models.load import LoadedModel, load_model
from crvq.models.precision import resolve_activation_dtype
from crvq.pipeline.add_evaluation import (
    add_evaluation,
    is_measurable,
    nothing_missing,
    with_recorded_evaluation,
)
from crvq.pipeline.budget import fitted_params, within_budget
from crvq.pipeline.device import device_name, resolve_device
from crvq.pipeline.distillation import WALK_FOLDER, EndToEndStage
from crvq.pipeline.fingerprint import fingerprint, model_digest
from crvq.pipeline.measure import Evaluation
from crvq.pipeline.out_of_memory import memory_advice
from crvq.pipeline.run_folder import run_folder
from crvq.pipeline.subject import Subject
from crvq.pipeline.texts import RunTexts, read_texts
from crvq.pipeline.walk import BlockWalk, linear_shapes
from crvq.sources.cache import cache_folder
from crvq.tracking.events import LayerRow, Listeners, RunListener
from crvq.tracking.log import RunLog
from crvq.tracking.memory import PeakMemory
from crvq.tracking.mirror import Mirror, check_tracking
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record import RunRecord
from crvq.weights.bits import BitCount

# What a weight that is not quantized is counted at: half precision, as models are published.
_UNQUANTIZED_BITS = 16


def run(config: RunConfig, sweep: str | None = None) -> Path:
    """Quantize and evaluate as configured, but not what a complete record holds already.

    What ``eval`` asks for beyond such a record is added to it without quantizing again.

    Args:
        config: the whole configuration, typed.
        sweep: name of the multirun that this run belongs to.

    Returns:
        The run's folder, with ``record.json``, ``layers.csv``, ``run.log`` and ``checkpoint/``.

    Raises:
        CrvqError: whatever was wrong; the record holds it too.
    """
    folder, anew = run_folder(config), None
    if config.eval_only is not None:
        return add_evaluation(folder, config)
    if RunRecord.is_complete(folder) and not config.force:
        if nothing_missing(folder, config) or is_measurable(folder):
            return add_evaluation(folder, config)
        # A kept record whose packed blocks are gone: quantize anew, measure all that it has.
        config = with_recorded_evaluation(folder, config)
        anew = "the packed blocks of the finished run are gone: quantizing anew"
    # Everything about a run that can be refused without work is refused before its record opens.
    check_tracking(config.tracking)
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
        record = RunRecord.start(folder, config, folder.name, sweep=sweep, fresh=config.force)
        stack.enter_context(record)
        record.set("device", str(device))
        record.set("device_name", device_name(device))
        record.set("threads", torch.get_num_threads())
        progress = stack.enter_context(ProgressBar())
        mirror = stack.enter_context(
            Mirror(config.tracking, folder, folder.name, record.data["config"], sweep=sweep)
        )
        listener = Listeners(record, log, progress, mirror)
        if anew is not None:
            listener.message(anew)
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
    weights = model_digest(loaded.model)
    record.set("model_note", config.model.note)
    record.set("full_precision_bits", float(_UNQUANTIZED_BITS))
    record.add_seconds("load", time.perf_counter() - begun)

    begun = time.perf_counter()
    subject = Subject(loaded, weights, texts.evaluation, activation_dtype, cache, record, listener)
    evaluation = Evaluation(config.eval, subject, quantizes=method.quantizes)
    evaluation.full_precision()
    record.add_seconds("evaluate", time.perf_counter() - begun)
    if not method.quantizes:
        return

    _quantize(config, method, loaded, texts, weights, activation_dtype, cache, record, listener)

    begun = time.perf_counter()
    evaluation.quantized()
    record.add_seconds("evaluate", time.perf_counter() - begun)


def _quantize(
    config: RunConfig,
    method: Method,
    loaded: LoadedModel,
    texts: RunTexts,
    weights: str,
    activation_dtype: torch.dtype,
    cache: Path,
    record: RunRecord,
    listener: RunListener,
) -> None:
    assert texts.calibration is not None
    distilled = _teacher(config, loaded, texts, weights, activation_dtype, cache, record, listener)
    begun = time.perf_counter()
    windows = walk_windows(texts.calibration, config.finetune, config.calibration)
    device = next(loaded.model.parameters()).device
    name, blocks = find_blocks(loaded.model)
    shapes = linear_shapes(blocks, config.model.skip_linears)
    if not shapes:
        raise ConfigError(
            f"model.skip_linears={list(config.model.skip_linears)} leaves no linear of {name} to "
            "quantize; leave some, or set method=full_precision"
        )
    method = within_budget(config, method, shapes)
    fitted = fitted_params(config, method)
    store, dropped = BlockStore.open(
        record.folder / ("checkpoint" if distilled is None else WALK_FOLDER),
        fingerprint(config, weights, windows, activation_dtype, device.type, fitted),
        fresh=config.force,
    )
    if dropped is not None:
        listener.message(dropped)
    done = store.whole_blocks()
    record.keep_blocks(range(done))
    if done:
        listener.message(f"going on after {done} blocks that lie packed on disk")
    stream = BlockStream(
        loaded.model, blocks, windows, config.calibration.batch_size, activation_dtype
    )
    walk = BlockWalk(name, blocks, stream, method, store, config, listener)
    record.set_effective(**{**fitted, **method.effective(shapes)})
    walk.survey()
    record.add_seconds("calibrate", time.perf_counter() - begun)
    try:
        with memory_advice(config, "block", device):
            walk.run()
    finally:
        record.add_seconds("calibrate", walk.seconds.calibrate)
        record.add_seconds("quantize", walk.seconds.quantize)
        if config.finetune.block is not None:
            record.add_seconds("finetune_block", walk.seconds.finetune)
    if distilled is not None:
        begun = time.perf_counter()
        try:
            with memory_advice(config, "end_to_end", device):
                store = distilled.run(name, blocks, store)
        finally:
            record.add_seconds("finetune_end_to_end", time.perf_counter() - begun)
    _record_bits(loaded, store, record)


def _teacher(
    config: RunConfig,
    loaded: LoadedModel,
    texts: RunTexts,
    weights: str,
    activation_dtype: torch.dtype,
    cache: Path,
    record: RunRecord,
    listener: RunListener,
) -> EndToEndStage | None:
    """The end-to-end stage, which has asked the full-precision model; None if there is none."""
    if config.finetune.end_to_end is None:
        return None
    assert texts.calibration is not None
    begun = time.perf_counter()
    stage = EndToEndStage(
        config, loaded, texts.calibration, weights, activation_dtype, cache, record.folder, listener
    )
    stage.learn()
    record.add_seconds("teacher", time.perf_counter() - begun)
    return stage


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
        codes_entropy=_total(record.layer_rows, "code_entropy"),
    )
    published = _total(record.layer_rows, "published_bits")
    if published is not None:
        record.set_effective(bits_as_published=published / quantized)
    record.set("packed_bytes", store.tensor_bytes)
    record.set("result_digest", store.digest())


def _total(rows: Sequence[LayerRow], column: str) -> float | None:
    """Bits of a column of averages over all weights; None where a linear has none."""
    averages = [getattr(row, column) for row in rows]
    if any(average is None for average in averages):
        return None
    sizes = [row.out_features * row.in_features for row in rows]
    return float(sum(size * average for size, average in zip(sizes, averages, strict=True)))
