"""Measure more on a finished run."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from crvq.checkpoint import BlockStore
from crvq.checkpoint.manifest import DamagedManifestError, read_manifest
from crvq.config import EvalConfig, PerplexityConfig, RunConfig, ZeroShotConfig
from crvq.errors import CheckpointError, ConfigError
from crvq.methods.registry import method_quantizes
from crvq.models.precision import device_name
from crvq.pipeline.context import RunContext, prepare
from crvq.pipeline.evaluate import Evaluation
from crvq.pipeline.quantize import repair_blocks
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
from crvq.tracking.record_schema import AddedEvaluation, Record, load_record


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
    needed = _texts_needed(todo, config.eval, asked.eval)
    texts = todo.model_copy(update={"perplexity": needed})
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
        restore_model(context.model, store, context.config.model.skip_linears, context.residence)
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


def _texts_needed(
    todo: EvalConfig, done: EvalConfig, asked: EvalConfig
) -> dict[str, PerplexityConfig]:
    """Datasets to read: those to measure, and those whose perplexity alone is known."""
    needed = dict(todo.perplexity)
    if todo.agreement is not None and todo.agreement.dataset not in needed:
        assert todo.agreement.dataset is not None
        assert asked.agreement_dataset is not None
        needed[todo.agreement.dataset] = asked.perplexity[asked.agreement_dataset]
    if todo.kv_cache is not None:
        for name, dataset in asked.perplexity.items():
            needed.setdefault(_own_name(name, dataset, done.perplexity), dataset)
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


def missing_evaluation(
    record: Record, done: EvalConfig, wanted: EvalConfig, quantizes: bool, again: bool = False
) -> EvalConfig:
    """Return what of ``wanted`` is not in ``record``.

    A dataset whose name is taken by another protocol gets its own name
    (``wikitext2_4096`` next to ``wikitext2``): what was measured stays.

    Args:
        record: of the finished run.
        done: its eval group.
        wanted: what is asked for now.
        quantizes: whether the run's method quantizes.
        again: whether to measure again what is there.
    """
    missing = {
        name: None if getattr(done, name) == getattr(wanted, name) and not again else asked
        for name, asked in wanted
    }
    names = {
        name: name if again else _own_name(name, dataset, done.perplexity)
        for name, dataset in wanted.perplexity.items()
    }
    which = "quantized" if quantizes else "full_precision"
    missing["perplexity"] = {
        names[name]: dataset
        for name, dataset in wanted.perplexity.items()
        # A value whose dataset is not in ``done`` is left from an attempt that failed later on:
        # its protocol is unknown.
        if again
        or names[name] not in done.perplexity
        or getattr(record.perplexity.get(names[name]), which, None) is None
    }
    missing["zero_shot"] = _tasks_missing(done.zero_shot, wanted.zero_shot, again)
    if wanted.kv_cache is not None and not again:
        entries = [record.kv_cache.get(name) for name in names.values()]
        if all(one and one.kind == wanted.kv_cache and getattr(one, which) for one in entries):
            missing["kv_cache"] = None
        else:
            missing["kv_cache"] = wanted.kv_cache
    missing["agreement"] = None
    if quantizes and wanted.agreement is not None and wanted.agreement_dataset is not None:
        dataset, most = names[wanted.agreement_dataset], wanted.agreement.max_windows
        if again or not _agreement_is_known(record, dataset, most):
            missing["agreement"] = wanted.agreement.model_copy(update={"dataset": dataset})
    return wanted.model_copy(update=missing)


def is_empty(config: EvalConfig) -> bool:
    """Return whether nothing at all is asked for."""
    return not any(asked for _, asked in config)


def with_added(done: EvalConfig, added: EvalConfig) -> EvalConfig:
    """Return the eval group of a record after ``added`` was measured too."""
    changes = {name: asked for name, asked in added if asked and name != "perplexity"}
    changes["perplexity"] = {**done.perplexity, **added.perplexity}
    if done.zero_shot is not None and added.zero_shot is not None:
        tasks = dict.fromkeys([*done.zero_shot.tasks, *added.zero_shot.tasks])
        if _put_alike(done.zero_shot, added.zero_shot):
            changes["zero_shot"] = added.zero_shot.model_copy(update={"tasks": tuple(tasks)})
    return done.model_copy(update=changes)


def _tasks_missing(
    done: ZeroShotConfig | None, wanted: ZeroShotConfig | None, again: bool
) -> ZeroShotConfig | None:
    """Return the zero-shot tasks that were not measured yet, or were put in another way."""
    if done is None or wanted is None or again or not _put_alike(done, wanted):
        return wanted
    tasks = tuple(task for task in wanted.tasks if task not in done.tasks)
    return wanted.model_copy(update={"tasks": tasks}) if tasks else None


def _put_alike(one: ZeroShotConfig, other: ZeroShotConfig) -> bool:
    """Return whether both ask questions in the same way, be they the same tasks or not."""
    return one.model_copy(update={"tasks": other.tasks}) == other


def _own_name(name: str, dataset: PerplexityConfig, taken: dict[str, PerplexityConfig]) -> str:
    """``name``, or one made from it where another protocol has that name already."""
    candidates = [name, f"{name}_{dataset.context}"]
    candidates += [f"{name}_{dataset.context}_{number}" for number in range(2, len(taken) + 3)]
    return next(own for own in candidates if taken.get(own, dataset) == dataset)


def _agreement_is_known(record: Record, dataset: str, most: int | None) -> bool:
    entry, text = record.agreement.get(dataset), record.perplexity.get(dataset)
    if entry is None or text is None or text.windows is None:
        return False
    return entry.windows == min(text.windows, most or text.windows)
