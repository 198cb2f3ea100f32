"""Measure more on a finished run, without quantizing again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import torch

from crvq.checkpoint import BlockStore
from crvq.config import EvalConfig, PerplexityConfig, RunConfig
from crvq.errors import CheckpointError, ConfigError
from crvq.methods.registry import method_quantizes
from crvq.models.load import load_model
from crvq.models.precision import resolve_activation_dtype
from crvq.pipeline.device import device_name, resolve_device
from crvq.pipeline.fingerprint import model_digest
from crvq.pipeline.measure import Evaluation
from crvq.pipeline.missing import is_empty, missing_evaluation, with_added
from crvq.pipeline.restore import restore_model
from crvq.pipeline.run_folder import recorded_config
from crvq.pipeline.subject import Subject
from crvq.pipeline.texts import read_texts
from crvq.sources.cache import cache_folder
from crvq.tracking.environment import environment
from crvq.tracking.events import Listeners
from crvq.tracking.json_values import to_json
from crvq.tracking.log import RunLog
from crvq.tracking.mirror import Mirror
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import AddedEvaluation, load_record

CHECKPOINT = "checkpoint"


def missing_here(folder: Path, asked: RunConfig) -> EvalConfig:
    """What of ``asked.eval`` the finished run in ``folder`` lacks.

    Raises:
        ConfigError: the run is not over and well, or its record is of another version.
    """
    record = load_record(folder)
    if record.status != "complete":
        raise ConfigError(
            f"eval_only={folder}: this run is {record.status}, and only finished ones can be "
            "measured again; run the command that started it once more: it goes on from there"
        )
    config = recorded_config(record)
    quantizes = method_quantizes(config.method)
    return missing_evaluation(record, config.eval, asked.eval, quantizes, anew=asked.force)


def nothing_missing(folder: Path, asked: RunConfig) -> bool:
    """Whether the finished run in ``folder`` has all that ``asked.eval`` asks for."""
    return is_empty(missing_here(folder, asked))


def with_recorded_evaluation(folder: Path, asked: RunConfig) -> RunConfig:
    """``asked``, to be run anew, with all that the finished run in ``folder`` has measured."""
    todo = missing_here(folder, asked)
    recorded = recorded_config(load_record(folder)).eval
    return asked.model_copy(update={"eval": with_added(recorded, todo)})


def is_measurable(folder: Path) -> bool:
    """Whether the packed blocks of a finished run are still there (or it has none)."""
    if not method_quantizes(load_record(folder).method):
        return True
    try:
        return BlockStore.read(folder / CHECKPOINT).whole_blocks() > 0
    except CheckpointError:
        return False


def add_evaluation(folder: Path, asked: RunConfig) -> Path:
    """Measure what ``asked.eval`` has beyond a finished run's record, and add it there.

    The model is loaded as the record says and its packed blocks are put in place; digests prove
    that both are those of the run. Each result is written as it comes; what was measured before
    stays, and an error leaves the record complete. ``added_evaluations`` says what was added,
    when, and with which versions.

    Args:
        folder: of the finished run.
        asked: eval, device, activation_dtype, threads, cache_dir, tracking and force count; all
            else is the recorded run's.

    Returns:
        The folder; nothing is loaded if nothing is missing.

    Raises:
        ConfigError: the run is not over, or measurements that its model cannot take.
        CheckpointError: packed blocks are missing, damaged or another run's; or the model's
            weights are no longer those that were quantized.
    """
    todo = missing_here(folder, asked)
    if is_empty(todo):
        return folder
    config = recorded_config(load_record(folder))
    device = resolve_device(asked.device)
    activation_dtype = resolve_activation_dtype(
        asked.activation_dtype, device, getattr(torch, config.model.dtype)
    )
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    begun = time.perf_counter()
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(folder))
        record = RunRecord.reopen(folder)
        progress = stack.enter_context(ProgressBar())
        mirror = stack.enter_context(
            Mirror(asked.tracking, folder, folder.name, record.data["config"])
        )
        listener = Listeners(log, progress, mirror)
        _measure(config, asked, todo, device, activation_dtype, record, listener)
        merged = to_json(with_added(config.eval, todo))
        record.set("config", {**record.data["config"], "eval": merged})
        added = AddedEvaluation.model_validate(
            {
                **environment(),
                "added": _names(todo),
                "at": datetime.now(UTC),
                "seconds": time.perf_counter() - begun,
                "device": str(device),
                "device_name": device_name(device),
                "activation_dtype": str(activation_dtype).removeprefix("torch."),
            }
        )
        record.set("added_evaluations", [*record.data["added_evaluations"], added])
        listener.finished(record.data)
    return folder


def _measure(
    config: RunConfig,
    asked: RunConfig,
    todo: EvalConfig,
    device: torch.device,
    activation_dtype: torch.dtype,
    record: RunRecord,
    listener: Listeners,
) -> None:
    cache = cache_folder(asked.cache_dir)
    quantizes = method_quantizes(config.method)
    loaded = load_model(config.model, cache, device)
    weights = model_digest(loaded.model)
    store = _store(record, weights) if quantizes else None
    with_text = todo.model_copy(update={"perplexity": _texts_needed(todo, asked.eval)})
    texts = read_texts(
        config.model_copy(update={"eval": with_text}), loaded, cache, calibrates=quantizes
    )
    subject = Subject(loaded, weights, texts.evaluation, activation_dtype, cache, record, listener)
    evaluation = Evaluation(todo, subject, quantizes=store is not None)
    evaluation.full_precision()
    if store is not None:
        restore_model(loaded.model, store, config.model.skip_linears)
        evaluation.quantized()


def _store(record: RunRecord, weights: str) -> BlockStore:
    """The run's packed blocks, proven to be the record's and of this model."""
    store = BlockStore.read(record.folder / CHECKPOINT)
    if store.digest() != record.data["result_digest"]:
        raise CheckpointError(
            f"{store.folder} does not hold the blocks that {record.path} tells of (result_digest "
            "differs); run the command that made it with force=true"
        )
    if store.fingerprint.get("weights_sha256") != weights:
        raise CheckpointError(
            f"the model that {record.path} names no longer has the weights that were quantized, or "
            "another configuration (the SHA-256 of both differs); put the old one back, or "
            "quantize again with force=true"
        )
    return store


def _texts_needed(todo: EvalConfig, asked: EvalConfig) -> dict[str, PerplexityConfig]:
    """Datasets to read: those to measure, and that of an agreement whose perplexity is known."""
    needed = dict(todo.perplexity)
    if todo.agreement is not None and todo.agreement.dataset not in needed:
        assert todo.agreement.dataset is not None
        assert asked.agreement_dataset is not None
        needed[todo.agreement.dataset] = asked.perplexity[asked.agreement_dataset]
    return needed


def _names(todo: EvalConfig) -> list[str]:
    """Keys of the record that a measurement fills, as in ``perplexity.wikitext2``."""
    names = [f"perplexity.{name}" for name in todo.perplexity]
    if todo.agreement is not None:
        names.append(f"agreement.{todo.agreement.dataset}")
    if todo.generation is not None:
        names.append("generations")
    others = EvalConfig.model_fields.keys() - {"perplexity", "agreement", "generation"}
    return names + sorted(name for name in others if getattr(todo, name))
