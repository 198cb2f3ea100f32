"""Settings: runs that differ in nothing but their seeds, as one row with mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from crvq.report.finetune_stages import FINETUNE, finetune_stage
from crvq.report.finished_runs import CONFIG, DEVICE, SEEDS, settings_of
from crvq.report.paper_table import STD
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED
from crvq.report.run_labels import Record, run_labels
from crvq.report.zero_shot_columns import (
    ACCURACY,
    AVERAGE,
    CHANCE,
    FULL_ACCURACY,
    FULL_AVERAGE,
    STDERR,
)

_MEASURED = (
    QUANTIZED,
    FULL_PRECISION,
    ACCURACY,
    FULL_ACCURACY,
    STDERR,
    CHANCE,
    AVERAGE,
    FULL_AVERAGE,
    "bits",
    "seconds",
)
_MEASURED_EXACTLY = frozenset(
    {"model_bytes", "packed_bytes", "peak_memory_bytes", "peak_gpu_memory_bytes", "relative_loss"}
)
_PARAMS = f"{CONFIG}method_params."


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, in the order in which settings come.

    Measured columns hold the mean over the setting's runs, and a column ``<name> std`` beside
    each the standard deviation (n - 1; NaN for one run). ``runs`` counts them, ``run_ids`` names
    them. All other columns are those of the setting's first run.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`; may be empty.
    """
    if runs.empty:
        return pd.DataFrame()
    measured = [str(name) for name in runs if _is_measured(str(name))]
    groups = runs.groupby("setting", sort=False)
    means = groups[measured].mean()
    spreads = groups[measured].std().add_suffix(STD)
    first = groups.first().drop(columns=measured)
    extra = pd.DataFrame(
        {"runs": groups.size(), "run_ids": groups["run_id"].agg(" ".join)}, index=means.index
    )
    parts = pd.concat([first, means, spreads, extra], axis=1)
    return parts.copy().reset_index()  # first() left a block a column


def setting_labels(settings: pd.DataFrame, but: Sequence[str] = ()) -> list[str]:
    """What sets each row apart from the others, as :func:`run_labels` says it.

    Args:
        settings: rows with ``config.*`` columns.
        but: configuration columns that have a column of their own.
    """
    rows = settings.to_dict("records")
    stages = pd.Series([finetune_stage(row) for row in rows], index=settings.index)
    told = {*but, *SEEDS, *_same_within(settings, stages)}
    records = [_record(row, told) for row in rows]
    for record, stage in zip(records, stages, strict=True):
        record["config"]["finetune"] = stage
    return run_labels(records)


def with_relative_loss(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with ``relative_loss``: the mean over a run's linears of tr(ΔWHΔWᵀ)/tr(WHWᵀ).

    Less noisy than perplexity where a model is far gone.
    """
    if runs.empty or layers.empty:
        return runs
    means = layers.groupby("folder")["relative_loss"].mean()
    return runs.assign(relative_loss=runs["folder"].map(means))


def of_one_device(settings: pd.DataFrame, column: str) -> float:
    """The mean of a column over the settings of one kind of device: the one that has it most often.

    For what does not depend on the setting, such as full precision's perplexity: a CPU and a GPU
    come to slightly different numbers, and their mean is neither's.
    """
    known = settings[settings[column].notna()]
    if known.empty:
        return float("nan")
    device = known[DEVICE].value_counts(sort=False).idxmax()
    return float(known.loc[known[DEVICE] == device, column].mean())


def model_notes(settings: pd.DataFrame) -> list[str]:
    """What every table with a model must say (weights that were 4 bit before)."""
    pairs = zip(settings["model"], settings["model_note"], strict=True)
    return [f"{model}: {note}." for model, note in pairs if isinstance(note, str) and note]


def _same_within(settings: pd.DataFrame, stages: pd.Series) -> list[str]:
    """Columns of fine-tuning whose values follow from which stages there are."""
    columns = [str(name) for name in settings if str(name).startswith(FINETUNE)]
    return [name for name in columns if settings[name].map(str).groupby(stages).nunique().max() < 2]


def _is_measured(name: str) -> bool:
    return name.startswith(_MEASURED) or name in _MEASURED_EXACTLY


def _record(row: dict[Any, Any], but: set[str]) -> Record:
    """The row as a record that :func:`run_labels` reads."""
    kept = {key: value for key, value in settings_of(row).items() if key not in but}
    params = {key.removeprefix(_PARAMS): kept.pop(key) for key in list(kept) if _PARAMS in key}
    config = {key.removeprefix(CONFIG): value for key, value in kept.items()}
    used = {
        str(key).removeprefix("effective."): value
        for key, value in row.items()
        if str(key).startswith("effective.")
        and _PARAMS + str(key)[10:] not in but
        and not (isinstance(value, float) and value != value)
    }
    return {
        "method": row["method"],
        "config": {**config, "method_params": params},
        "effective": used,
    }
