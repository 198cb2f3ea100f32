"""One run: from a typed configuration to a complete run record."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from crvq.config import RunConfig
from crvq.files.run_lock import RunLock
from crvq.models.precision import device_name, resolve_device
from crvq.pipeline.add_evaluation import (
    add_evaluation,
    is_measurable,
    nothing_missing,
    with_recorded_evaluation,
)
from crvq.pipeline.context import RunContext, prepare
from crvq.pipeline.evaluate import Evaluation
from crvq.pipeline.failures import check_writable, storage_advice
from crvq.pipeline.quantize import UNQUANTIZED_BITS, quantize, repair_files
from crvq.pipeline.run_folder import (
    attempt_folder,
    check_unchanged,
    input_files,
    lock_file,
    publish,
    reference_folder,
    run_folder,
    settle,
)
from crvq.stopping import stopped_by_signals
from crvq.team import joined, own_device, team
from crvq.tracking.events import Listeners
from crvq.tracking.log import RunLog
from crvq.tracking.memory import PeakMemory
from crvq.tracking.mirror import Mirror, check_tracking
from crvq.tracking.progress import ProgressBar
from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import load_record
from crvq.tracking.record_values import RecordValues, blank_record

_log = logging.getLogger(__name__)
_announced = False


@dataclass(frozen=True)
class RunOutcome:
    """Where a run lies, and whether this call computed it."""

    folder: Path
    """With ``record.json``, ``layers.csv``, ``run.log`` and ``checkpoint/``."""
    reused: bool
    """Nothing was computed: a finished run held all that was asked for."""


def run(config: RunConfig, sweep: str | None = None) -> Path:
    """Run as :func:`execute` does, and return the run's folder."""
    return execute(config, sweep).folder


def execute(config: RunConfig, sweep: str | None = None) -> RunOutcome:
    """Quantize and evaluate as configured, but nothing that a complete record holds already.

    What ``eval`` asks for beyond such a record is added to it without quantizing again. A finished
    run is never overwritten: a new attempt works in a folder next to it and replaces it when it is
    complete; the replaced one is kept. A command that is refused leaves no trace.

    Args:
        config: the whole configuration, typed.
        sweep: name of the multirun that this run belongs to.

    Raises:
        CrvqError: whatever was wrong. If work had begun, the record holds it too.
    """
    config = config.model_copy(update={"device": own_device(config.device)})
    with joined(resolve_device(config.device)) as together:
        if together.rank:
            return _assist(config)
        try:
            return _execute(config, sweep)
        finally:
            _announce(False)


def _execute(config: RunConfig, sweep: str | None) -> RunOutcome:
    folder = run_folder(config)
    check_tracking(config.tracking)
    check_writable(folder.parent, "results_dir")
    if config.reuse == "reference" and not config.force and not RunRecord.is_complete(folder):
        reference = reference_folder(config)
        if reference is not None and nothing_missing(reference, config):
            return RunOutcome(reference, reused=True)
        lack = "has no run with this identity" if reference is None else "lacks a measurement"
        _log.warning("reuse=reference: results_dir/reference %s, so it is computed", lack)
    lock = RunLock(
        lock_file(folder), wait=config.if_locked == "wait", on_wait=lambda line: _log.warning(line)
    )
    if not folder.exists():
        # Nothing is there to protect yet: refuse what can be refused before the first file.
        context = prepare(config)
        Evaluation(config.eval, context)
        with storage_advice(folder), lock:
            return _locked(config, folder, sweep, None if lock.waited else context)
    with storage_advice(folder), lock:
        return _locked(config, folder, sweep, None)


def _announce(work: bool) -> None:
    """Tell the other processes that process 0 begins to work, or that there is no work.

    They hear of one work, or of none; what is said after it is not heard any more.
    """
    global _announced
    if not _announced:
        team().share(b"work" if work else b"none")
    _announced = work


def _assist(config: RunConfig) -> RunOutcome:
    """Do this process's share of what process 0 works on."""
    folder = run_folder(config)
    if team().share(b"") != b"work":
        return RunOutcome(folder, reused=True)
    config = config.model_copy(update={"force": False})
    context = prepare(config)
    values = RecordValues(blank_record(config, folder.name))
    with tempfile.TemporaryDirectory(prefix="crvq-") as own:
        context.open(values, values, Path(own))
        _work(context, Evaluation(config.eval, context))
    return RunOutcome(folder, reused=False)


def _locked(
    config: RunConfig, folder: Path, sweep: str | None, context: RunContext | None
) -> RunOutcome:
    """Do what is missing, with the run's lock held."""
    if settle(folder) and config.force:
        # A forced attempt that was complete when its process died is what this command asks for.
        config = config.model_copy(update={"force": False})
    message = None
    if config.eval_only is not None:
        return RunOutcome(folder, reused=not add_evaluation(folder, config))
    if RunRecord.is_complete(folder) and not config.force:
        repair_files(folder)
        check_unchanged(load_record(folder), config)
        if nothing_missing(folder, config):
            _tell_sweep_agent(config, folder)
            return RunOutcome(folder, reused=True)
        if is_measurable(folder):
            return RunOutcome(folder, reused=not add_evaluation(folder, config))
        # A kept record without its packed blocks: quantize again, measure all that it has.
        config = with_recorded_evaluation(folder, config)
        context = None
        message = "the packed blocks of the finished run are gone: quantizing again"
    context = context or prepare(config)
    evaluation = Evaluation(config.eval, context)
    working = attempt_folder(folder, force=config.force)
    _attempt(context, evaluation, working, folder.name, sweep, message)
    replaced = publish(working, folder)
    if replaced is not None:
        _log.warning("the earlier result of this run is kept in %s", replaced)
    return RunOutcome(folder, reused=False)


def _tell_sweep_agent(config: RunConfig, folder: Path) -> None:
    """Show a finished run to the W&B sweep that asked for it: the sweep waits for its result."""
    if "WANDB_SWEEP_ID" in os.environ:
        record = RunRecord.reopen(folder).data
        Mirror(config.tracking, folder, folder.name, record["config"]).finished(record)


def _attempt(
    context: RunContext,
    evaluation: Evaluation,
    working: Path,
    run_id: str,
    sweep: str | None,
    message: str | None,
) -> None:
    """Compute a run in ``working``, and leave a complete record there."""
    config = context.config
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(working))
        record = RunRecord.start(working, config, run_id, sweep=sweep)
        stack.enter_context(stopped_by_signals(record.stop))
        stack.enter_context(record)
        record.set("device", str(context.device))
        record.set("device_name", device_name(context.device))
        record.set("threads", torch.get_num_threads())
        record.set("inputs", input_files(config))
        progress = stack.enter_context(ProgressBar())
        mirror = stack.enter_context(
            Mirror(config.tracking, working, run_id, record.data["config"], sweep=sweep)
        )
        _announce(True)
        listener = Listeners(record, log, progress, mirror)
        context.open(record, listener, working)
        if message is not None:
            listener.message(message)
        with PeakMemory() as memory:
            _work(context, evaluation)
        record.set_peak_memory(memory.host_bytes, memory.gpu_bytes)
        record.complete()
        listener.finished(record.data)


def _work(context: RunContext, evaluation: Evaluation) -> None:
    results = context.results
    results.set("model_note", context.config.model.note)
    results.set("full_precision_bits", float(UNQUANTIZED_BITS))
    results.add_seconds("load", context.load_seconds)
    begun = time.perf_counter()
    evaluation.full_precision()
    results.add_seconds("evaluate", time.perf_counter() - begun)
    if not context.method.quantizes:
        return
    quantize(context)
    begun = time.perf_counter()
    evaluation.quantized()
    results.add_seconds("evaluate", time.perf_counter() - begun)
