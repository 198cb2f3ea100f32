"""Measure more on a finished run, without quantizing again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from crvq.checkpoint import BlockStore
from crvq.checkpoint.manifest import DamagedManifestError, read_manifest
from crvq.config import EvalConfig, PerplexityConfig, RunConfig
from crvq.errors import CheckpointError, ConfigError
from crvq.methods.registry import method_quantizes
from crvq.pipeline.context import RunContext, prepare
from crvq.pipeline.device import device_name
from crvq.pipeline.evaluate import Evaluation
from crvq.pipeline.missing import is_empty, missing_evaluation, with_added
from crvq.pipeline.repair import repair_blocks
from crvq.pipeline.run_folder import CHECKPOINT, recorded_config
from crvq.pipeline.stored_model import restore_model
from crvq.stopping import stopped_by_signals
from crvq.tracking.environment import environment
from crvq.tracking.events import Listeners
from crvq.tracking.json_values import to_json
from crvq.tracking.log import RunLog
from crvq.tracking.mirror import Mirror
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import AddedEvaluation, load_record


def missing_here(folder: Path, asked: RunConfig) -> EvalConfig:
    """Return what of ``asked.eval`` the finished run in ``folder`` lacks.

    Raises:
        ConfigError: the run is not finished, or its record is of another version.
    """
    record = load_record(folder)
    if record.status != "complete":
        raise ConfigError(
            f"eval_only={folder}: this run is {record.status}, and only finished ones can be "
            "measured again; run the command that started it once more: it resumes"
        )
    config = recorded_config(record)
    quantizes = method_quantizes(config.method)
    return missing_evaluation(record, config.eval, asked.eval, quantizes, again=asked.force)


def nothing_missing(folder: Path, asked: RunConfig) -> bool:
    """Return whether the finished run in ``folder`` has all that ``asked.eval`` asks for."""
    return is_empty(missing_here(folder, asked))


def with_recorded_evaluation(folder: Path, asked: RunConfig) -> RunConfig:
    """Return ``asked``, to be run again, with all that the finished run has measured."""
    todo = missing_here(folder, asked)
    recorded = recorded_config(load_record(folder)).eval
    return asked.model_copy(update={"eval": with_added(recorded, todo)})


def is_measurable(folder: Path) -> bool:
    """Return whether the packed blocks of a finished run are still there (or it has none).

    Raises:
        CheckpointError: a newer version wrote them, so that they are neither read nor replaced.
    """
    if not method_quantizes(load_record(folder).method):
        return True
    try:
        manifest = read_manifest(folder / CHECKPOINT)
    except DamagedManifestError:
        return False
    return manifest is not None and bool(BlockStore(folder / CHECKPOINT, manifest).intact_blocks())


def add_evaluation(folder: Path, asked: RunConfig) -> bool:
    """Measure what ``asked.eval`` has beyond a finished run's record, and add it there.

    The model is loaded as the record says and its packed blocks are put in place; digests prove
    that both are those of the run, and damaged blocks are quantized again. Each result is written
    as it comes; what was measured before stays, and an error leaves the record complete.
    ``added_evaluations`` says what was added, when, and with which versions.

    Args:
        folder: of the finished run.
        asked: eval, device, activation_dtype, threads, cache_dir, tracking and force count; all
            else is the recorded run's.

    Returns:
        Whether anything was missing; nothing is loaded otherwise.

    Raises:
        ConfigError: the run is not finished, or measurements that its model cannot take.
        CheckpointError: packed blocks are missing, or damaged and not to be made again here, or
            another run's; or the model's weights are no longer those that were quantized.
    """
    todo = missing_here(folder, asked)
    if is_empty(todo):
        return False
    config = recorded_config(load_record(folder))
    begun = time.perf_counter()
    texts = todo.model_copy(update={"perplexity": _texts_needed(todo, asked.eval)})
    context = prepare(config.model_copy(update={"eval": texts}), asked)
    evaluation = Evaluation(todo, context)
    record = RunRecord.reopen(folder)
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(folder))
        stack.enter_context(stopped_by_signals(lambda: None))
        progress = stack.enter_context(ProgressBar())
        mirror = stack.enter_context(
            Mirror(asked.tracking, folder, folder.name, record.data["config"])
        )
        listener = Listeners(log, progress, mirror)
        context.open(record, listener, folder)
        _measure(context, evaluation, record)
        merged = to_json(with_added(config.eval, todo))
        record.set("config", {**record.data["config"], "eval": merged})
        added = AddedEvaluation.model_validate(
            {
                **environment(),
                "added": _names(todo),
                "at": datetime.now(UTC),
                "seconds": time.perf_counter() - begun,
                "device": str(context.device),
                "device_name": device_name(context.device),
                "activation_dtype": str(context.activation_dtype).removeprefix("torch."),
            }
        )
        record.set("added_evaluations", [*record.data["added_evaluations"], added])
        listener.finished(record.data)
    return True


def _measure(context: RunContext, evaluation: Evaluation, record: RunRecord) -> None:
    store = _store(record, context.weights) if context.method.quantizes else None
    evaluation.full_precision()
    if store is None:
        return
    if not repair_blocks(record.folder, context):
        restore_model(context.model, store, context.config.model.skip_linears)
    evaluation.quantized()


def _store(record: RunRecord, weights: str) -> BlockStore:
    """Return the run's packed blocks, proven to be the record's and of this model."""
    store = BlockStore.read(record.folder / CHECKPOINT)
    if store.digest() != record.data["result_digest"]:
        raise CheckpointError(
            f"{store.folder} does not hold the blocks that {record.path} describes (result_digest "
            "differs); run the command that made the run with force=true: the present record is "
            "kept until the new one is complete"
        )
    if store.fingerprint.get("model_sha256") != weights:
        raise CheckpointError(
            f"the model that {record.path} names no longer has the weights that were quantized, or "
            "another configuration (the SHA-256 of both differs); put the old one back, or "
            "quantize the new one with force=true"
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
