"""The run table: run folders as typed rows, one per setting, from which the page is drawn."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from crvq.report.finished_runs import setting_key
from crvq.report.layout_names import name_settings
from crvq.report.liveness import shown_status
from crvq.report.number_format import Style, format_cell
from crvq.report.protocols import Protocol, protocol_heads, record_protocol
from crvq.report.records import flat_record
from crvq.report.run_labels import Record
from crvq.report.runs import Run
from crvq.report.zero_shot_columns import task_label
from crvq.report.zero_shot_table import chance_flag
from crvq.tracking.json_values import flatten


@dataclass(frozen=True)
class Measure:
    """What was measured, and on what; values under equal measures may be compared."""

    title: str
    style: Style
    lower_is_better: bool = True
    about: str = ""
    """The protocol in full, for a hover."""
    shown: bool = True
    """Whether the table shows it before its columns are chosen."""


@dataclass(frozen=True)
class Score:
    """One measured value."""

    quantized: float
    full_precision: float | None = None
    stderr: float | None = None
    chance: float | None = None

    @property
    def flag(self) -> str:
        """Whether the value is at or below chance (:func:`chance_flag`)."""
        return chance_flag(self.quantized, self.stderr, self.chance)


Scores = dict[Measure, Score]


@dataclass
class Row:
    """Runs of one experiment that differ in nothing but their seeds."""

    runs: list[Run]
    name: str
    status: str
    settings: dict[str, Any]
    scores: list[Scores] = field(default_factory=list)
    """One per run."""

    @property
    def first(self) -> Record:
        """Return the record of the first run."""
        return self.runs[0].record

    def values(self, measure: Measure) -> list[float]:
        """Return a measure's values over the runs that have it."""
        return [scores[measure].quantized for scores in self.scores if measure in scores]

    def mean(self, measure: Measure) -> float | None:
        """Return the mean over seeds; None where nothing was measured."""
        values = self.values(measure)
        return statistics.fmean(values) if values else None

    def std(self, measure: Measure) -> float | None:
        """Return the standard deviation over seeds (n - 1); None for one run."""
        values = self.values(measure)
        finite = len(values) > 1 and all(map(math.isfinite, values))
        return statistics.stdev(values) if finite else None

    def shown(self, measure: Measure) -> str:
        """Return the value as the table shows it, with its spread and its chance flag."""
        mean = self.mean(measure)
        if mean is None:
            return ""
        flags = {scores[measure].flag for scores in self.scores if measure in scores}
        flag = f" {flags.pop()}" if len(flags) == 1 else " ?"
        return format_cell(measure.style, mean, self.std(measure)) + flag.rstrip()


BITS = Measure("bits", "bits", about="bits per quantized weight, everything counted")
LOSS = Measure("layer loss", "loss", about="relative loss of a linear layer's output, mean")
SECONDS = Measure("time", "duration", about="seconds of all stages together")
DECODING = Measure("tokens/s", "value", False, "decoding one sequence with a cache", False)
MEMORY = Measure("memory", "memory", about="peak memory of the process", shown=False)
PACKED = Measure("packed", "memory", about="packed tensors on disk", shown=False)
_MODELS = ("quantized", "full_precision")


def run_table(runs: Sequence[Run]) -> tuple[list[Row], list[Measure]]:
    """Return the rows, in the order of ``runs``, and all measures that any of them has.

    Args:
        runs: of :func:`crvq.report.runs.load_runs`. Complete runs that differ in seeds alone
            share a row; every other run is its own.
    """
    protocols = protocol_heads(
        record_protocol(run.record, section, dataset)
        for run in runs
        for section in ("perplexity", "agreement")
        for dataset in run.record.get(section) or {}
    )
    sources = {
        entry.get("source")
        for run in runs
        for entry in (run.record.get("zero_shot") or {}).values()
    }
    several = len(sources - {None}) > 1
    names = _names(runs)
    rows: dict[str, Row] = {}
    for run in runs:
        settings = flatten({"config": run.record.get("config") or {}})
        key = _key(run, settings)
        if key not in rows:
            rows[key] = Row([], names[run.key], shown_status(run, runs), settings)
        rows[key].runs.append(run)
        rows[key].scores.append(dict(_scores(run, protocols, several)))
    measures = dict.fromkeys(m for row in rows.values() for scores in row.scores for m in scores)
    return list(rows.values()), sorted(measures, key=_rank)


def _key(run: Run, settings: dict[str, Any]) -> str:
    if run.status != "complete" or not settings:
        return run.key
    device = str(run.record.get("device")).split(":")[0]
    revisions = json.dumps(run.record.get("algorithm"), sort_keys=True)
    parts = (run.experiment, run.reference, device, revisions, setting_key(settings))
    return "|".join(map(str, parts))


def _names(runs: Sequence[Run]) -> dict[str, str]:
    """Return a name by run key; what tells rows of one experiment apart is in it."""
    names = {run.key: run.label for run in runs}
    known = [run for run in runs if run.record.get("config") and run.record.get("method")]
    for experiment in dict.fromkeys(run.experiment for run in known):
        own = [run for run in known if run.experiment == experiment]
        frame = pd.DataFrame([flat_record(run.record, run.folder) for run in own])
        settings = [setting_key(row) for row in frame["settings"]]
        frame = frame.assign(setting=settings)
        unique = frame.drop_duplicates("setting").reset_index(drop=True)
        named = dict(zip(unique["setting"], name_settings(unique), strict=True))
        for run, setting in zip(own, settings, strict=True):
            names[run.key] = named[setting]
    return names


def _rank(measure: Measure) -> int:
    if measure == BITS:
        return -1
    order = ["ppl ", "zero-shot", "KL ", "top-1 ", LOSS.title, SECONDS.title]
    starts = [place for place, name in enumerate(order) if measure.title.startswith(name)]
    return starts[0] if starts else len(order)


def _scores(
    run: Run, protocols: dict[Protocol, str], several: bool
) -> Iterator[tuple[Measure, Score]]:
    record = run.record
    bits = record.get("bits") or {}
    if bits.get("average_quantized_weights") is not None:
        yield BITS, Score(bits["average_quantized_weights"], record.get("full_precision_bits"))
    yield from _perplexities(record, protocols)
    yield from _zero_shot(record, several)
    if "relative_loss" in run.layers and run.layers["relative_loss"].notna().any():
        yield LOSS, Score(float(run.layers["relative_loss"].mean()))
    for dataset, entry in (record.get("kv_cache") or {}).items():
        if entry.get("recovery") is not None:
            title = f"recovery, {entry['kind']} cache of {entry['bits']:g} bits, {dataset}"
            about = "perplexity without the quantized key-value cache over that with it"
            both = (entry["recovery"], entry.get("full_precision_recovery"))
            yield Measure(title, "accuracy", False, about, False), Score(*both)
    speed = record.get("speed") or {}
    if speed.get("quantized"):
        dense = (speed.get("full_precision") or {}).get("decode_tokens_per_second")
        yield DECODING, Score(speed["quantized"]["decode_tokens_per_second"], dense)
    seconds = [float(value) for value in (record.get("seconds") or {}).values()]
    if seconds:
        yield SECONDS, Score(sum(seconds))
    for measure, key in ((MEMORY, "peak_memory_bytes"), (PACKED, "packed_bytes")):
        if record.get(key):
            yield measure, Score(float(record[key]))


def _perplexities(
    record: Record, protocols: dict[Protocol, str]
) -> Iterator[tuple[Measure, Score]]:
    for dataset, entry in (record.get("perplexity") or {}).items():
        protocol = record_protocol(record, "perplexity", dataset)
        name, about = protocols[protocol], protocol.label(2)
        if entry.get("quantized") is not None:
            measure = Measure(f"ppl {name}", "perplexity", about=f"perplexity on {about}")
            yield measure, Score(entry["quantized"], entry.get("full_precision"))
        if entry.get("quantized_bits_per_byte") is not None:
            about = f"bits per byte of {about}; comparable between tokenizers"
            measure = Measure(f"bits per byte {name}", "loss", about=about, shown=False)
            both = (entry["quantized_bits_per_byte"], entry.get("full_precision_bits_per_byte"))
            yield measure, Score(*both)
    for dataset, entry in (record.get("agreement") or {}).items():
        protocol = record_protocol(record, "agreement", dataset)
        name, about = protocols[protocol], protocol.label(2)
        kl = Measure(f"KL {name}", "loss", about=f"KL(full || quantized), nats, {about}")
        yield kl, Score(entry["kl_divergence"], 0.0)
        top = Measure(f"top-1 {name}", "accuracy", False, f"same most likely token, %, {about}")
        yield top, Score(entry["top1_agreement"], 1.0)


def _zero_shot(record: Record, several: bool) -> Iterator[tuple[Measure, Score]]:
    """Yield the average of ``acc`` over a run's set of tasks, then each task."""
    found = {
        task_label(task, entry, several): entry["metrics"]["acc"]
        for task, entry in (record.get("zero_shot") or {}).items()
        if (entry.get("metrics") or {}).get("acc", {}).get("quantized") is not None
    }
    if len(found) > 1:
        limits = {label.partition(", ")[2] for label in found}
        title = f"zero-shot, {len(found)} tasks" + "".join(f", {one}" for one in limits if one)
        full = [entry.get("full_precision") for entry in found.values()]
        known = [value for value in full if value is not None]
        mean = statistics.fmean(entry["quantized"] for entry in found.values())
        chances = [entry.get("chance") for entry in found.values()]
        level = [value for value in chances if value is not None]
        measure = Measure(title, "accuracy", False, "mean accuracy of " + "; ".join(sorted(found)))
        yield (
            measure,
            Score(
                mean,
                statistics.fmean(known) if len(known) == len(full) else None,
                chance=statistics.fmean(level) if len(level) == len(chances) else None,
            ),
        )
    for label, entry in found.items():
        values = (entry.get(key) for key in ("full_precision", "quantized_stderr", "chance"))
        about = f"accuracy, chance {entry.get('chance')}"
        yield Measure(label, "accuracy", False, about, False), Score(entry["quantized"], *values)
