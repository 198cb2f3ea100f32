"""What the page's side panel shows of one run: configuration, results, layers, command."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from crvq.report.figures.critical_map import critical_channels
from crvq.report.liveness import progress
from crvq.report.number_format import format_cell
from crvq.report.run_labels import Record, adjusted, show
from crvq.report.runs import Run
from crvq.tracking.json_values import flatten
from crvq.weights.bits import BIT_PARTS

Command = Callable[[Record], str | None]
"""Gives the command that reproduces a record; None if that is not known."""

_MAPS = {
    "relative_loss": "relative loss",
    "bits": "bits per weight",
    "critical_channels": "critical channels",
}
_PLACE = ("host", "platform", "cpu", "device", "device_name", "threads", "git", "packages")
_TRACEBACK_LINES = 15


def run_details(run: Run, runs: Sequence[Run], command: Command) -> dict[str, Any]:
    """Return a run for the page, as plain values; numbers are formatted here, not in the page."""
    record = run.record
    error = record.get("error") or {}
    under_way = progress(run, runs) if run.status in {"running", "stopped"} else None
    return {
        "id": run.folder.name,
        "experiment": run.experiment,
        "folder": str(run.folder),
        "status": run.status,
        "reference": run.reference,
        "command": command(record),
        "error": {
            "type": error.get("type"),
            "message": error.get("message"),
            "traceback": "\n".join(map(str, (error.get("traceback") or [])[-_TRACEBACK_LINES:])),
        }
        if error
        else None,
        "notes": [str(note) for note in _notes(run)],
        "progress": None if under_way is None else _progress(under_way),
        "config": {key: show(value) for key, value in flatten(record.get("config") or {}).items()},
        "used": {key: [show(asked), show(used)] for key, (asked, used) in adjusted(record).items()},
        "results": dict(_results(record)),
        "made": {
            key: show(value)
            for key, value in flatten(
                {key: record[key] for key in _PLACE if record.get(key) is not None}
            ).items()
        },
        "generations": [
            [str(one.get(key) or "") for key in ("prompt", "full_precision", "quantized")]
            for one in record.get("generations") or []
        ],
        "layers": _layers(run.layers),
        "curves": _curves(run.finetune),
    }


def _notes(run: Run) -> list[Any]:
    note = run.record.get("model_note")
    return [*([note] if note else []), *(run.record.get("notes") or []), *run.faults]


def _progress(values: dict[str, Any]) -> str:
    blocks = f"{values['blocks_done']} of {values['blocks'] or '?'} blocks"
    stage = f", {values['stage']}" if values["stage"] else ""
    silent = format_cell("duration", values["silent"])
    return f"{blocks}{stage}; last change {silent} ago"


def _results(record: Record) -> list[tuple[str, str]]:
    """Return bits by part, seconds by stage, and each zero-shot metric with its errors."""
    bits = record.get("bits") or {}
    weights = bits.get("quantized_weights") or 0
    found = []
    if weights:
        parts = [name for name in BIT_PARTS if bits.get(name)]
        found = [(f"bits: {name}", format_cell("bits", bits[name] / weights)) for name in parts]
        found.append(("bits per weight, all weights", f"{bits['average_all_weights']:.3f}"))
    for dataset, entry in (record.get("perplexity") or {}).items():
        about = f"{entry.get('protocol') or ''}, context {entry.get('context')}"
        pair = [_shown("perplexity", entry, key) for key in ("quantized", "full_precision")]
        found.append((f"perplexity {dataset}", f"{pair[0]} (full precision {pair[1]}); {about}"))
    for task, entry in (record.get("zero_shot") or {}).items():
        for metric, scores in (entry.get("metrics") or {}).items():
            pair = [_shown("accuracy", scores, key) for key in ("quantized", "full_precision")]
            chance = format_cell("accuracy", scores.get("chance"))
            about = f"full precision {pair[1]}, chance {chance}; {entry.get('data')}"
            found.append((f"{task} {metric}", f"{pair[0]} ({about})"))
    for stage, seconds in (record.get("seconds") or {}).items():
        found.append((f"time: {stage}", format_cell("duration", seconds)))
    return found


def _shown(style: Any, entry: dict[str, Any], key: str) -> str:  # noqa: ANN401 - a Style
    return format_cell(style, entry.get(key), entry.get(f"{key}_stderr"))


def _layers(layers: pd.DataFrame) -> dict[str, Any] | None:
    """Return measures as matrices, a row per kind and a column per block, and critical channels."""
    if layers.empty or not {"block", "kind"} <= set(layers.columns):
        return None
    blocks = sorted(int(block) for block in layers["block"].unique())
    kinds = [str(kind) for kind in dict.fromkeys(layers["kind"])]
    places = list(zip(layers["kind"].astype(str), layers["block"].astype(int), strict=True))
    maps = {}
    for column, name in _MAPS.items():
        if column in layers:
            values = dict(zip(places, layers[column], strict=True))
            maps[name] = [
                [_rounded(values.get((kind, block), math.nan)) for block in blocks]
                for kind in kinds
            ]
    critical: dict[str, list[list[int]]] = {}
    if "critical_in_features" in layers:
        for kind, rows in layers.groupby(layers["kind"].astype(str), sort=False):
            points = [
                [channel, int(block)]
                for block, text in zip(rows["block"], rows["critical_in_features"], strict=True)
                for channel in critical_channels(str(text))
            ]
            if points:
                critical[str(kind)] = points
    return {"blocks": blocks, "kinds": kinds, "maps": maps, "critical": critical}


def _rounded(value: float) -> float | None:
    finite = pd.notna(value) and abs(value) != float("inf")
    return float(f"{value:.4g}") if finite else None


def _curves(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return fine-tuning's losses, one curve per stage and block (-1: the whole model)."""
    if table.empty or not {"stage", "block", "step", "train_loss"} <= set(table.columns):
        return []
    table = table.assign(
        block=pd.to_numeric(table["block"], errors="coerce").fillna(-1).astype(int)
    )
    return [
        {
            "name": f"{stage}" + (f", block {block}" if block >= 0 else ""),
            "step": [_rounded(value) for value in pd.to_numeric(rows["step"], errors="coerce")],
            "loss": [
                _rounded(value) for value in pd.to_numeric(rows["train_loss"], errors="coerce")
            ],
        }
        for (stage, block), rows in (
            ((str(key[0]), int(str(key[1]))), rows)
            for key, rows in table.groupby(["stage", "block"], sort=False)
        )
    ]
