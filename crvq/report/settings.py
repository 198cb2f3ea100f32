"""Settings: runs that differ in nothing but their seeds, as one row with mean and spread."""

from __future__ import annotations

import pandas as pd

from crvq.report.finished_runs import DEVICE, ORIGIN, distinct
from crvq.report.paper_table import STD
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED
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


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, in the order in which settings come.

    A row is one run, or the mean over runs that differ in nothing but their seeds (of each seed
    the one that :func:`crvq.report.finished_runs.distinct` keeps). Measured columns hold the mean
    over the runs that have a value, and a column ``<name> std`` next to each the standard
    deviation (n - 1; NaN for one run). ``runs`` counts them, ``run_ids`` names them, ``origin``
    says which were shipped. All other columns are those of the setting's first run.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`; may be empty.
    """
    if runs.empty:
        return pd.DataFrame()
    runs = distinct(runs)
    measured = [str(name) for name in runs if _is_measured(str(name))]
    groups = runs.groupby("setting", sort=False)
    means = groups[measured].mean()
    spreads = groups[measured].std().add_suffix(STD)
    first = runs.drop_duplicates("setting").set_index("setting").drop(columns=measured)
    extra = pd.DataFrame(
        {"runs": groups.size(), "run_ids": groups["run_id"].agg(" ".join)}, index=means.index
    )
    first[ORIGIN] = groups[ORIGIN].agg(_origins)
    parts = pd.concat([first, means, spreads, extra], axis=1)
    return parts.copy().reset_index()


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
    """Return what every table with a model must say (weights that were 4 bit before)."""
    pairs = zip(settings["model"], settings["model_note"], strict=True)
    return [f"{model}: {note}." for model, note in pairs if isinstance(note, str) and note]


def _origins(values: pd.Series) -> str:
    """Return where the runs of one row come from, each place once."""
    return "; ".join(dict.fromkeys(value or "own" for value in values)) if any(values) else ""


def _is_measured(name: str) -> bool:
    return name.startswith(_MEASURED) or name in _MEASURED_EXACTLY
