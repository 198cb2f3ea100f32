"""The values of a run record as they grow, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from crvq.config import RunConfig
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.events import LayerRow, RunListener
from crvq.tracking.json_values import to_json
from crvq.tracking.record_schema import (
    Agreement,
    Bits,
    KvCache,
    PerplexityResult,
    Record,
    RecordError,
    ZeroShotTask,
    record_values,
)
from crvq.tracking.run_id import algorithm


def blocks_section(summaries: Sequence[TrainingSummary]) -> dict[str, Any]:
    """The trainings of all blocks in a few numbers; losses are means over blocks."""
    changed = [one.changed_codes for one in summaries if one.changed_codes is not None]
    codes = {"changed_codes": fmean(changed)} if changed else {}
    return {
        "blocks": len(summaries),
        "unchanged_blocks": sum(one.best_step == 0 for one in summaries),
        "steps": sum(one.steps for one in summaries),
        "trained_values": sum(one.trained_values for one in summaries),
        "first_loss": fmean(one.first_loss for one in summaries),
        "best_loss": fmean(one.best_loss for one in summaries),
        "skipped": sum(one.skipped for one in summaries),
        "stopped": {
            reason: sum(one.stopped == reason for one in summaries)
            for reason in sorted({one.stopped for one in summaries})
        },
        "seconds": sum(one.seconds for one in summaries),
        **codes,
    }


def model_section(summary: TrainingSummary) -> dict[str, Any]:
    """The training of the whole model."""
    section = asdict(summary)
    if summary.changed_codes is None:
        section.pop("changed_codes")
    return section


def blank_record(config: RunConfig, run_id: str, experiment: str | None = None) -> Record:
    """Return a record that is not written anywhere: for a model in memory, or an assistant."""
    now = datetime.now(UTC)
    return Record(
        run_id=run_id,
        experiment=experiment or config.experiment,
        model=config.model.name,
        method=config.method,
        algorithm=algorithm(config),
        budget=config.budget.model_dump(),
        config=to_json(config),
        seeds={"seed": config.seed, "calibration": config.calibration.seed},
        started=now,
        updated=now,
    )


class RecordValues(RunListener):
    """A run record in memory, and the rows that belong to it.

    As a listener it keeps the rows of quantized blocks, losses of fine-tuning and messages (as
    notes). A subclass that stores the record overrides the three ``_store`` methods.
    """

    def __init__(self, record: Record, rows: Iterable[LayerRow] = ()) -> None:
        self._record = record
        self._rows = {row.name: row for row in rows}
        self._trained: dict[int, TrainingSummary] = {}
        self._points: list[CurvePoint] = []

    @property
    def data(self) -> dict[str, Any]:
        """The record as plain values, as :func:`read_record` would give it now."""
        return record_values(self._record)

    @property
    def layer_rows(self) -> list[LayerRow]:
        """Rows so far, by block, in the order in which they came."""
        return sorted(self._rows.values(), key=lambda row: row.block)

    @property
    def curve(self) -> list[CurvePoint]:
        """Points of fine-tuning's loss curves so far."""
        return list(self._points)

    def set(self, section: str, value: object) -> None:
        """Replace a section (a field of :class:`Record`) and store the record.

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
        self._store()

    def set_bits(
        self,
        parts: Mapping[str, float],
        *,
        quantized_weights: int,
        all_weights: int,
        other_weights_bits: float,
        codes_entropy: float | None = None,
    ) -> None:
        """Record the size of the quantized model.

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

    def set_kv_cache(self, dataset: str, which: str, value: float, **values: Any) -> None:  # noqa: ANN401
        """Set a model's perplexity in a dataset's entry of :class:`KvCache`, and its recovery.

        Args:
            dataset: whose plain perplexity of the same model, if there is one, gives the recovery.
            which: ``full_precision`` or ``quantized``.
            value: perplexity with the quantized cache.
            values: all other fields.
        """
        earlier = self._record.kv_cache.get(dataset)
        plain = getattr(self._record.perplexity.get(dataset), which, None)
        recovery = "recovery" if which == "quantized" else "full_precision_recovery"
        found = {which: value, recovery: None if plain is None else plain / value}
        merged = {**(earlier.model_dump() if earlier else {}), **values, **found}
        result = KvCache.model_validate(merged)
        self.set("kv_cache", {**self._record.kv_cache, dataset: result})

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

    def set_speed(self, **values: object) -> None:
        """Merge speeds (``full_precision``, ``quantized``) measured in the same way into one."""
        known = self._record.speed
        before = {} if known is None else known.model_dump()
        asked = ("prompt_tokens", "new_tokens", "threads", "activation_dtype")
        if any(before.get(key) != values[key] for key in asked):
            before = {}  # measured otherwise: not comparable
        self.set("speed", {**before, **values})

    def set_zero_shot(
        self,
        task: str,
        metrics: Mapping[str, Mapping[str, float | None]],
        **values: Any,  # noqa: ANN401
    ) -> None:
        """Merge a task's metrics and fields of :class:`ZeroShotTask` into its entry.

        An entry that was measured in another way (another limit, other questions) is replaced:
        the ratio of scores on different questions is no recovery.
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
        """Add a block's rows; a linear quantized again replaces its row."""
        self._rows.update({row.name: row for row in rows})
        self._store_layers()

    def keep_blocks(self, blocks: Iterable[int]) -> None:
        """Drop the rows of all other blocks: a resumed run keeps only blocks that are stored."""
        kept = set(blocks)
        self._rows = {name: row for name, row in self._rows.items() if row.block in kept}
        self._store_layers()

    def complete(self) -> None:
        """Close the record: the run is finished."""
        self._close("complete")

    def stage_started(self, stage: str, total: int) -> None:
        """Keep what the run is busy with."""
        self.set("stage", {"name": stage, "total": total})

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Keep a block's rows."""
        self.add_layer_rows(rows)

    def block_trained(self, block: int, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Keep a block's losses; a resumed run hears of its earlier blocks again."""
        self._trained[block] = summary
        section = {"block": blocks_section(list(self._trained.values()))}
        others = [point for point in self._points if point.block != block]
        self._set_finetune(section, [*others, *points])

    def model_trained(self, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Keep the whole model's losses."""
        others = [point for point in self._points if point.block is not None]
        self._set_finetune({"end_to_end": model_section(summary)}, [*others, *points])

    def message(self, text: str) -> None:
        """Keep a message as a note."""
        self.add_note(text)

    def _set_finetune(self, section: Mapping[str, Any], points: list[CurvePoint]) -> None:
        self._points = points
        self._store_curve()
        self.set("finetune", {**self._record.finetune, **section})

    def _close(self, status: str) -> None:
        self._record.finished = datetime.now(UTC)
        self.set("status", status)

    def _store(self) -> None:
        """Store the record."""

    def _store_layers(self) -> None:
        """Store the rows of quantized linears."""

    def _store_curve(self) -> None:
        """Store fine-tuning's loss curves."""
