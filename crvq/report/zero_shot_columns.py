"""Zero-shot accuracies by task and limit, and their averages over equal sets of tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

METRIC = "acc"
"""Plain accuracy for all tasks, as most papers on 1-2 bits average it; not ``acc_norm``."""
ACCURACY = "accuracy: "
"""Prefix of columns with the quantized model's accuracy; the task's label follows."""
FULL_ACCURACY = "full-precision accuracy: "
STDERR = "standard error: "
CHANCE = "chance: "
AVERAGE = "zero-shot average"
FULL_AVERAGE = "full-precision zero-shot average"
_SOURCE = re.compile(r"zero_shot\..+\.source")
_VALUE = re.compile(rf"zero_shot\.(?P<task>.+)\.metrics\.{METRIC}\.quantized")


def add_accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with accuracy columns for every task, and averages.

    A task of which only the first questions were asked, or with solved examples before them, has
    that in its label: numbers of different limits or shots never share a column. Where
    some runs took questions from the hub and others packaged ones (validation splits where lm-eval
    asks a test split), labels say which. Averages
    (``zero-shot average ...``) are over all of a run's tasks; runs with other sets of tasks have
    averages of their own.

    Args:
        runs: flat records, as :func:`crvq.report.records.load_records` gives them.
    """
    records = runs.to_dict("records")
    sources = {str(row[key]) for row in records for key in row if _is_source(row, key)}
    rows = [_scores(row, named=len(sources) > 1) for row in records]
    sets = list(dict.fromkeys(tuple(sorted(row)) for row in rows if row))
    names = _set_names(sets)
    wide: list[dict[str, float]] = []
    for row in rows:
        values: dict[str, float] = {}
        for label, (quantized, full, stderr, chance) in row.items():
            values[ACCURACY + label] = quantized
            values[FULL_ACCURACY + label] = full
            values[STDERR + label] = stderr
            values[CHANCE + label] = chance
        if row:
            name = names[tuple(sorted(row))]
            values[AVERAGE + name] = sum(value[0] for value in row.values()) / len(row)
            values[FULL_AVERAGE + name] = sum(value[1] for value in row.values()) / len(row)
        wide.append(values)
    return pd.concat([runs, pd.DataFrame(wide, index=runs.index)], axis=1)


def task_label(task: str, asked: Mapping[str, Any], named: bool = False) -> str:
    """A task's name with what its scores depend on: solved examples, and a limit if there is one.

    Args:
        task: lm-eval's name.
        asked: ``shots``, ``limit`` and ``source``, as a record has them.
        named: add where the questions come from.
    """
    limit, shots = _number(asked.get("limit")), _number(asked.get("shots"))
    source = asked.get("source")
    label = task
    label += f", {shots:.0f} shots" if shots > 0 else ""
    label += "" if pd.isna(limit) else f", first {limit:.0f}"
    return label + (f", {source}" if named and isinstance(source, str) else "")


def task_labels(runs: pd.DataFrame) -> list[str]:
    """Labels of all tasks that ``runs`` has accuracies of."""
    return _with_prefix(runs, ACCURACY)


def average_labels(runs: pd.DataFrame) -> list[str]:
    """What follows ``zero-shot average`` in the names of ``runs``' columns; ``""`` for one set."""
    return _with_prefix(runs, AVERAGE)


def _with_prefix(runs: pd.DataFrame, prefix: str) -> list[str]:
    names = (str(name) for name in runs.columns)
    return [
        name.removeprefix(prefix)
        for name in names
        if name.startswith(prefix) and not name.endswith(" std")
    ]


def _is_source(row: Mapping[Any, Any], key: object) -> bool:
    return _SOURCE.fullmatch(str(key)) is not None and isinstance(row[key], str)


def _scores(
    row: Mapping[Any, Any], named: bool = False
) -> dict[str, tuple[float, float, float, float]]:
    """By task label (with the source if ``named``): accuracy, full precision's, standard error and
    chance level.
    """
    found = {}
    for key in row:
        match = _VALUE.fullmatch(str(key))
        if match is None or pd.isna(row[key]):
            continue
        task = f"zero_shot.{match['task']}"
        metric = f"{task}.metrics.{METRIC}"
        asked = {name: row.get(f"{task}.{name}") for name in ("limit", "shots", "source")}
        label = task_label(match["task"], asked, named)
        values = ("quantized", "full_precision", "quantized_stderr", "chance")
        numbers = [_number(row.get(f"{metric}.{name}")) for name in values]
        found[label] = (numbers[0], numbers[1], numbers[2], numbers[3])
    return found


def _set_names(sets: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    if len(sets) == 1:
        return {sets[0]: ""}
    return {tasks: f" of {', '.join(tasks)}" for tasks in sets}


def _number(value: object) -> float:
    return float("nan") if value is None else float(str(value))
