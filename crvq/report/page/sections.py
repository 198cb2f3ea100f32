"""What stands on the page, as plain values: the table's columns and rows, figures, runs."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from crvq.report.figures.pareto import pareto_figure, pareto_points, pareto_protocols
from crvq.report.figures.sweep import sweep_figures, swept_values
from crvq.report.finished_runs import finished_runs, older_note, older_revisions
from crvq.report.number_format import format_cell
from crvq.report.page.details import Command, run_details
from crvq.report.published import PublishedError, published_path, read_published
from crvq.report.records import flat_record
from crvq.report.run_table import Measure, Row, run_table
from crvq.report.runs import Run
from crvq.tracking.json_values import to_json

_MOST_KEYS = 60
"""Configuration keys that the column chooser offers."""
_OUTCOMES = 3
"""Outcomes of a sweep that have figures of their own."""
Cell = list[Any]
"""What is shown (escaped), what is sorted by (escaped), and what a hover says (plain text)."""


def page_payload(
    runs: Sequence[Run], results_dir: Path, command: Command, stamp: str | None = None
) -> dict[str, Any]:
    """Return everything that the page shows, as JSON can say it.

    Args:
        runs: of :func:`crvq.report.runs.load_runs`.
        results_dir: where they lie; may hold ``published.csv``.
        command: of a record, to reproduce it.
        stamp: of the files, where the page is served and looks for a newer one.
    """
    rows, measures = run_table(runs)
    keys = _own_keys(rows)
    plain: dict[str, Any] = to_json(
        {
            "results": str(results_dir),
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "stamp": stamp,
            "columns": _columns(rows, measures, list(keys.columns)),
            "rows": [
                {"runs": [run.key for run in row.runs], "cells": _cells(row, measures, own)}
                for row, own in zip(rows, keys.to_dict("records"), strict=True)
            ],
            "notices": [
                f"In the table, but not in bits and perplexity. {note}"
                for note in older_note(older_revisions(_frame(runs)))
            ],
            "failures": _failures(runs),
            "sweeps": _sweeps(rows, measures),
            "runs": {run.key: run_details(run, runs, command) for run in runs},
        }
    )
    plain["pareto"], faults = _pareto(runs, results_dir)
    plain["notices"] += faults
    return plain


def figure_json(figure: go.Figure) -> Any:  # noqa: ANN401 - what plotly.js reads
    """Return a figure as the page's plotly.js draws it: no template, which themes would undo."""
    values = json.loads(str(figure.to_json(validate=False)))
    values["layout"].pop("template", None)
    return values


def _columns(
    rows: Sequence[Row], measures: Sequence[Measure], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the heads; what is the same in all rows is not shown before it is chosen."""

    def varies(value: Callable[[Row], object]) -> bool:
        return len({value(row) for row in rows}) > 1

    said = [
        ("run", "what sets the run apart from the others of its experiment", True),
        ("experiment", "folder of results", varies(lambda row: row.runs[0].experiment)),
        ("model", "", varies(lambda row: row.first.get("model"))),
        ("method", "", False),
        ("status", "", varies(lambda row: row.status)),
        (
            "seeds",
            "runs that differ in nothing but their seeds; values are mean ± s.d.",
            varies(lambda row: len(row.runs)),
        ),
    ]
    plain = [
        {"title": title, "about": about, "shown": shown, "number": title == "seeds"}
        for title, about, shown in said
    ]
    numbers = [
        {
            "title": html.escape(measure.title),
            "about": measure.about,
            "shown": measure.shown,
            "number": True,
        }
        for measure in measures
    ]
    started = {"title": "started", "about": "UTC", "shown": True, "number": False}
    own = [
        {"title": html.escape(key), "about": "configuration", "shown": False, "number": False}
        for key in keys
    ]
    return [*plain, *numbers, started, *own]


def _cells(row: Row, measures: Sequence[Measure], own: dict[Any, Any]) -> list[Cell]:
    record = row.first
    error = (record.get("error") or {}).get("message") or ""
    origin = " (reference)" if row.runs[0].reference else ""
    texts = [
        _text(row.name, row.name + origin),
        _text(row.runs[0].experiment),
        _text(str(record.get("model") or ""), str(record.get("model_note") or "")),
        _text(str(record.get("method") or "")),
        _text(row.status, str(error)),
        [str(len(row.runs)), len(row.runs), ""],
    ]
    numbers = [_number(row, measure) for measure in measures]
    started = str(record.get("started") or "")[:16].replace("T", " ")
    return [*texts, *numbers, _text(started), *(_text(str(value)) for value in own.values())]


def _text(text: str, about: str = "") -> Cell:
    return [html.escape(text), html.escape(text), about]


def _number(row: Row, measure: Measure) -> Cell:
    mean = row.mean(measure)
    if mean is None:
        return ["", None, ""]
    scores = [scores[measure] for scores in row.scores if measure in scores]
    about = [measure.about]
    if scores[0].full_precision is not None:
        about.append(f"full precision {format_cell(measure.style, scores[0].full_precision)}")
    if scores[0].chance is not None:
        about.append(f"chance {format_cell('accuracy', scores[0].chance)}")
    if len(scores) > 1:
        about.append(f"mean ± s.d. of {len(scores)} seeds")
    finite = mean if math.isfinite(mean) else 1e308
    return [html.escape(row.shown(measure)), finite, "; ".join(about)]


def _own_keys(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the configuration values in which rows differ, a line per row."""
    values = swept_values(rows)
    if values.empty:
        return pd.DataFrame(index=range(len(rows)))
    drop = [name for name in values if name in {"model", "method"}]
    return values.drop(columns=drop).iloc[:, :_MOST_KEYS]


def _failures(runs: Sequence[Run]) -> list[dict[str, str]]:
    return [
        {"key": run.key, "label": run.label, "error": _first_line(run)}
        for run in runs
        if run.status in {"failed", "damaged"}
    ]


def _first_line(run: Run) -> str:
    error = run.record.get("error") or {}
    lines = str(error.get("message") or "").strip().splitlines() or ["no message"]
    return f"{error.get('type') or 'error'}: {lines[0]}"


def _sweeps(rows: Sequence[Row], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    found = []
    for name in dict.fromkeys(row.runs[0].experiment for row in rows):
        own = [row for row in rows if row.runs[0].experiment == name]
        counts = {m: sum(bool(row.values(m)) for row in own) for m in measures if m.shown}
        ranked = sorted(counts, key=lambda measure: -counts[measure])
        known = [m for m in ranked if counts[m] > 1 and m.title not in {"bits", "time"}]
        for measure in known[:_OUTCOMES]:
            figures = sweep_figures(own, measure)
            if figures:
                drawn = {head: figure_json(figure) for head, figure in figures.items()}
                about = f"{measure.title}: {measure.about}"
                found.append({"name": f"{name}: {measure.title}", "about": about, "draw": drawn})
    return found


def _frame(runs: Sequence[Run]) -> pd.DataFrame:
    return pd.DataFrame([flat_record(run.record, run.folder) for run in runs])


def _pareto(runs: Sequence[Run], results_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a figure per protocol; a published table that cannot be read is a fault to show."""
    published, faults = None, []
    if published_path(results_dir).exists():
        try:
            published = read_published(results_dir)
        except PublishedError as error:
            faults.append(str(error))
    finished = finished_runs(_frame(runs))
    if finished.empty:
        return [], faults
    figures, points = [], pareto_points(finished)
    for protocol in pareto_protocols(finished):
        figure = pareto_figure(finished, published, protocol=protocol, points=points)
        figure.layout.title, figure.layout.margin.t = None, 24
        figure.update_xaxes(title=None).update_yaxes(title=None)  # the caption says it
        figures.append({"name": protocol, "draw": {"": figure_json(figure)}})
    return figures, faults
