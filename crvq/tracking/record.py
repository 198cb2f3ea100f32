"""The run record: what a run was, what it did and what came out, always up to date on disk."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from crvq.config import RunConfig
from crvq.files.atomic import write_json
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.environment import environment
from crvq.tracking.events import LayerRow, RunListener
from crvq.tracking.finetune_csv import FINETUNE_FILE, write_finetune
from crvq.tracking.finetune_section import blocks_section, model_section
from crvq.tracking.json_values import to_json
from crvq.tracking.layers_csv import LAYERS_FILE, read_layers, write_layers
from crvq.tracking.record_schema import (
    RECORD_FILE,
    Agreement,
    Attempt,
    Bits,
    PerplexityResult,
    Record,
    RecordedError,
    RecordError,
    ZeroShotTask,
    load_record,
    record_values,
)


class RunRecord(RunListener):
    """``record.json`` and ``layers.csv`` of one run, rewritten whole at every change.

    As a listener it keeps the rows of quantized blocks and messages (as notes). As a context
    manager it records an exception that passes through it as the run's failure.
    """

    def __init__(self, folder: Path, record: Record, rows: Iterable[LayerRow] = ()) -> None:
        self.folder = folder
        self._record = record
        self._rows = {row.name: row for row in rows}
        self._trained: dict[int, TrainingSummary] = {}
        self._points: list[CurvePoint] = []

    @classmethod
    def start(
        cls,
        folder: Path,
        config: RunConfig,
        run_id: str,
        *,
        sweep: str | None = None,
        fresh: bool = False,
    ) -> RunRecord:
        """Open a run's record with status ``running`` and write it.

        A record of the same run that is not complete is continued: its start, seconds, notes and
        layer rows are kept, and ``resumes`` and ``attempts`` grow. Everything else starts anew:
        no record, a complete one, one that cannot be read (a note says so), or ``fresh``.

        Args:
            folder: ``results/<experiment>/<run_id>``; made if need be.
            config: the typed configuration.
            run_id: from :func:`crvq.tracking.run_id.run_id`.
            sweep: name of the multirun that the run was started by.
            fresh: forget what an earlier, unfinished attempt left (a forced run).
        """
        earlier, rows, notes = (None, [], []) if fresh else _earlier(folder, run_id)
        record = _new_record(config, run_id, sweep)
        if earlier is not None:
            record.started = earlier.started
            record.attempts = [*earlier.attempts, *record.attempts]
            record.resumes = earlier.resumes + 1
            record.seconds = earlier.seconds
            record.notes = earlier.notes
            record.peak_memory_bytes = earlier.peak_memory_bytes
            record.peak_gpu_memory_bytes = earlier.peak_gpu_memory_bytes
        record.notes = [*record.notes, *notes]
        opened = cls(folder, record, rows)
        opened._write_layers()
        opened._write()
        return opened

    @classmethod
    def reopen(cls, folder: Path) -> RunRecord:
        """Open a run's record as it is, to add to it.

        Raises:
            RecordError: it is missing or damaged.
        """
        return cls(folder, load_record(folder))

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether the run in ``folder`` is over and well; False for a damaged record."""
        try:
            return load_record(folder).status == "complete"
        except RecordError:
            return False

    @property
    def path(self) -> Path:
        """Where ``record.json`` lies."""
        return self.folder / RECORD_FILE

    @property
    def data(self) -> dict[str, Any]:
        """The record as plain values, as :func:`read_record` would give it now."""
        return record_values(self._record)

    @property
    def layer_rows(self) -> list[LayerRow]:
        """Rows so far, by block, in the order in which they came."""
        return sorted(self._rows.values(), key=lambda row: row.block)

    def set(self, section: str, value: object) -> None:
        """Replace a section (a field of :class:`Record`) and write.

        Raises:
            RecordError: no such section, or the value is not what the section holds.
        """
        if section not in Record.model_fields:
            raise RecordError(
                f"A run record has no section {section!r}; it has {', '.join(Record.model_fields)}."
            )
        try:
            setattr(self._record, section, value)
        except ValidationError as error:
            raise RecordError(f"{section}={value!r} does not fit a run record: {error}") from error
        self._write()

    def set_bits(
        self,
        parts: Mapping[str, float],
        *,
        quantized_weights: int,
        all_weights: int,
        other_weights_bits: float,
        codes_entropy: float | None = None,
    ) -> None:
        """Record what the quantized model weighs.

        Args:
            parts: total bits by part, named as in `crvq.weights.bits.BitCount`.
            quantized_weights: number of weights that the parts encode.
            all_weights: number of weights of the model, quantized or not.
            other_weights_bits: total bits of the weights that are not quantized.
            codes_entropy: total bits of the codes after ideal order-0 entropy coding.
        """
        total = sum(parts.values())
        averages = {
            "average_quantized_weights": total / quantized_weights,
            "average_all_weights": (total + other_weights_bits) / all_weights,
            "quantized_weights": quantized_weights,
            "all_weights": all_weights,
            "codes_entropy": codes_entropy,
        }
        self.set("bits", Bits.model_validate({**parts, **averages}))

    def set_perplexity(self, dataset: str, **values: Any) -> None:  # noqa: ANN401
        """Merge fields of :class:`PerplexityResult` into a dataset's entry."""
        earlier = self._record.perplexity.get(dataset)
        merged = {**(earlier.model_dump() if earlier else {}), **values}
        result = PerplexityResult.model_validate(merged)
        self.set("perplexity", {**self._record.perplexity, dataset: result})

    def set_agreement(self, dataset: str, **values: Any) -> None:  # noqa: ANN401
        """Set a dataset's entry of :class:`Agreement`."""
        result = Agreement.model_validate(values)
        self.set("agreement", {**self._record.agreement, dataset: result})

    def set_generation(
        self,
        prompt: str,
        max_new_tokens: int,
        chat_template: bool,
        **texts: str,
    ) -> None:
        """Merge a prompt's continuations (``full_precision``, ``quantized``) into its entry."""
        asked = {
            "prompt": prompt,
            "max_new_tokens": max_new_tokens,
            "chat_template": chat_template,
        }
        entries = [entry.model_dump() for entry in self._record.generations]
        for entry in entries:
            if asked.items() <= entry.items():
                entry.update(texts)
                break
        else:
            entries.append({**asked, **texts})
        self.set("generations", entries)

    def set_zero_shot(
        self,
        task: str,
        metrics: Mapping[str, Mapping[str, float | None]],
        **values: Any,  # noqa: ANN401
    ) -> None:
        """Merge a task's metrics and fields of :class:`ZeroShotTask` into its entry.

        An entry that was measured in another way (another limit, other questions) is replaced:
        scores of different questions are no recovery.
        """
        earlier = self._record.zero_shot.get(task)
        entry = earlier.model_dump() if earlier else {}
        fields = ZeroShotTask.model_fields
        if any(entry.get(name) != value for name, value in values.items() if name in fields):
            entry = {}
        entry = {"metrics": {}, **entry, **values}
        for name, scores in metrics.items():
            merged = {**entry["metrics"].get(name, {}), **scores}
            full, quantized = merged.get("full_precision"), merged.get("quantized")
            if full and quantized is not None:
                merged["recovery"] = quantized / full
            entry["metrics"][name] = merged
        result = ZeroShotTask.model_validate(entry)
        self.set("zero_shot", {**self._record.zero_shot, task: result})

    def set_effective(self, **values: Any) -> None:  # noqa: ANN401
        """Merge what the method really used (``critical_ratio=0.0139``)."""
        self.set("effective", {**self._record.effective, **values})

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to a stage's time; attempts of a resumed run add up."""
        total = self._record.seconds.get(stage, 0.0) + seconds
        self.set("seconds", {**self._record.seconds, stage: total})

    def add_note(self, text: str) -> None:
        """Add a line to the notes, once."""
        if text not in self._record.notes:
            self.set("notes", [*self._record.notes, text])

    def set_peak_memory(self, host_bytes: int, gpu_bytes: int | None = None) -> None:
        """Record peak memory; over attempts of a resumed run the highest is kept."""
        self.set("peak_memory_bytes", max(host_bytes, self._record.peak_memory_bytes or 0))
        if gpu_bytes is not None:
            highest = max(gpu_bytes, self._record.peak_gpu_memory_bytes or 0)
            self.set("peak_gpu_memory_bytes", highest)

    def add_layer_rows(self, rows: Iterable[LayerRow]) -> None:
        """Add a block's rows and write ``layers.csv``; a linear done again replaces its row."""
        self._rows.update({row.name: row for row in rows})
        self._write_layers()

    def keep_blocks(self, blocks: Iterable[int]) -> None:
        """Drop the rows of all other blocks: a resumed run keeps only blocks that lie on disk."""
        kept = set(blocks)
        self._rows = {name: row for name, row in self._rows.items() if row.block in kept}
        self._write_layers()

    def complete(self) -> None:
        """Close the record: the run is over and well."""
        self._close("complete")

    def fail(self, error: BaseException) -> None:
        """Close the record with the error; what was done so far is kept."""
        self._record.error = RecordedError(
            type=type(error).__name__,
            message=str(error),
            traceback="".join(traceback.format_exception(error)).splitlines(),
        )
        self._close("failed")

    def stage_started(self, stage: str, total: int) -> None:
        """Keep what the run is busy with."""
        self.set("stage", {"name": stage, "total": total})

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Keep a block's rows."""
        self.add_layer_rows(rows)

    def block_trained(self, block: int, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Keep a block's losses; a resumed run is told of its earlier blocks again."""
        self._trained[block] = summary
        section = {"block": blocks_section(list(self._trained.values()))}
        others = [point for point in self._points if point.block != block]
        self._set_finetune(section, [*others, *points])

    def model_trained(self, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Keep the whole model's losses."""
        others = [point for point in self._points if point.block is not None]
        self._set_finetune({"end_to_end": model_section(summary)}, [*others, *points])

    def _set_finetune(self, section: Mapping[str, Any], points: list[CurvePoint]) -> None:
        self._points = points
        write_finetune(self.folder / FINETUNE_FILE, points)
        self.set("finetune", {**self._record.finetune, **section})

    def message(self, text: str) -> None:
        """Keep a message as a note."""
        self.add_note(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)

    def _close(self, status: str) -> None:
        self._record.finished = datetime.now(UTC)
        self.set("status", status)

    def _write(self) -> None:
        self._record.updated = datetime.now(UTC)
        write_json(self.path, self._record.to_json())

    def _write_layers(self) -> None:
        write_layers(self.folder / LAYERS_FILE, self.layer_rows)


def _new_record(config: RunConfig, run_id: str, sweep: str | None) -> Record:
    now = datetime.now(UTC)
    around = environment()
    git = around["git"]
    attempt = Attempt(
        started=now, host=around["host"], pid=os.getpid(), git_commit=git and git["commit"]
    )
    return Record(
        run_id=run_id,
        experiment=config.experiment,
        model=config.model.name,
        method=config.method,
        budget=config.budget.model_dump(),
        config=to_json(config),
        seeds={"seed": config.seed, "calibration": config.calibration.seed},
        sweep=sweep,
        started=now,
        updated=now,
        attempts=[attempt],
        **around,
    )


def _earlier(folder: Path, run_id: str) -> tuple[Record | None, list[LayerRow], list[str]]:
    """The unfinished record in ``folder``, its layer rows, and notes on what could not be read."""
    if not (folder / RECORD_FILE).exists():
        return None, [], []
    try:
        record = load_record(folder)
    except RecordError as error:
        return None, [], [f"An earlier record was replaced: {error}"]
    if record.status == "complete" or record.run_id != run_id:
        return None, [], []
    try:
        return record, read_layers(folder / LAYERS_FILE), []
    except FileNotFoundError:
        return record, [], []
    except RecordError as error:
        return record, [], [f"Earlier layer rows were dropped: {error}"]
