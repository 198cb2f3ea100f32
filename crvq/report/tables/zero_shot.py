"""The zero-shot table: accuracy by task, next to full precision and chance."""

from __future__ import annotations

from typing import Any

import pandas as pd

from crvq.report.finished_runs import quantized_runs
from crvq.report.layout_names import name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.settings import of_one_device, over_seeds
from crvq.report.tables.outcome_columns import (
    BITS,
    EXPERIMENT,
    RUN_IDS,
    model_columns,
    notes,
    origin_columns,
)
from crvq.report.zero_shot_columns import (
    ACCURACY,
    AVERAGE,
    CHANCE,
    FULL_ACCURACY,
    FULL_AVERAGE,
    STDERR,
    average_labels,
    task_labels,
)
from crvq.report.zero_shot_table import chance_flag

CHANCE_NOTE = "At chance: not above picking at random by more than two standard errors."


def zero_shot_table(runs: pd.DataFrame) -> PaperTable:
    """Chance, full precision and each setting with zero-shot scores, by model and bits.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
    """
    settings = over_seeds(quantized_runs(runs))
    tasks, averages = task_labels(settings), average_labels(settings)
    if tasks:
        scored = settings[[ACCURACY + task for task in tasks]].notna().any(axis=1)
        settings = settings[scored].reset_index(drop=True)
        settings = settings.assign(label=name_settings(settings))
        settings = settings.sort_values(["model", "bits"], kind="stable")
        baselines = _baseline_rows(settings, tasks, averages)
        settings = settings.assign(at_chance=[_at_chance(row, tasks) for row in _rows(settings)])
        frame = pd.concat([baselines, settings], ignore_index=True)
        frame = frame.sort_values("model", kind="stable", ignore_index=True)
    else:
        frame = pd.DataFrame()
    heads, asked = _heads(tasks)
    columns = (
        *model_columns(settings),
        Column("label", "method"),
        BITS,
        *(Column(ACCURACY + task, heads[task], "accuracy") for task in tasks),
        *(Column(AVERAGE + name, f"average{name}", "accuracy") for name in averages),
        Column("at_chance", "at chance"),
        *(Column(STDERR + task, f"standard error: {task}", only_csv=True) for task in tasks),
        *origin_columns(settings),
        EXPERIMENT,
        RUN_IDS,
    )
    said = (
        *notes(settings),
        CHANCE_NOTE,
        *([f"Questions of each task: {asked}."] if asked else []),
        "Accuracy (acc) in per cent, not length-normalized; zero-shot.",
    )
    return PaperTable(
        name="zero_shot",
        title="Zero-shot accuracy",
        frame=frame,
        columns=columns,
        notes=said if tasks else (),
        section="model",
        section_rows=True,
        made_by="python run.py +experiments=zero_shot",
    )


def _rows(settings: pd.DataFrame) -> list[dict[Any, Any]]:
    return settings.to_dict("records")


def _at_chance(row: dict[Any, Any], tasks: list[str]) -> str:
    """Tasks on which the setting is at chance, as far as so many questions can show."""
    asked = [task for task in tasks if not pd.isna(row[ACCURACY + task])]
    heads, _ = _heads(tasks)
    found = [
        heads[task]
        for task in asked
        if chance_flag(row[ACCURACY + task], row[STDERR + task], row[CHANCE + task])
    ]
    return "all" if len(found) == len(asked) > 1 else ", ".join(found)


def _heads(tasks: list[str]) -> tuple[dict[str, str], str]:
    """A head for each task, and how all of them were asked where that is the same for all."""
    ways = {task.partition(", ")[2] for task in tasks}
    if len(ways) > 1:
        return {task: task for task in tasks}, ""
    return {task: task.partition(", ")[0] for task in tasks}, "".join(ways)


def _baseline_rows(settings: pd.DataFrame, tasks: list[str], averages: list[str]) -> pd.DataFrame:
    rows = []
    for model, group in settings.groupby("model", sort=False):
        chance = {ACCURACY + task: group[CHANCE + task].mean() for task in tasks}
        full = {ACCURACY + task: of_one_device(group, FULL_ACCURACY + task) for task in tasks}
        full |= {AVERAGE + name: of_one_device(group, FULL_AVERAGE + name) for name in averages}
        bits = of_one_device(group, "full_precision_bits")
        rows.append({"model": model, "label": "picking at random", **chance})
        rows.append({"model": model, "label": "full precision", "bits": bits, **full})
    return pd.DataFrame(rows)
