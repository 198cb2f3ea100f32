"""The main table: methods by bits, perplexity and zero-shot average."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pandas as pd

from crvq.report.finished_runs import of_experiments, older_note, quantized_runs
from crvq.report.layout_names import name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED, protocol_labels
from crvq.report.settings import of_one_device, over_seeds
from crvq.report.tables.outcome_columns import (
    BITS,
    BITS_ALL,
    EXPERIMENT,
    GPU_MEMORY,
    MEMORY,
    RUN_IDS,
    SECONDS,
    average_columns,
    model_columns,
    notes,
    origin_columns,
    perplexity_columns,
)
from crvq.report.zero_shot_columns import AVERAGE, FULL_AVERAGE, average_labels

EXPERIMENTS = (
    "smollm2-main-table",
    "smollm2-methods",
    "llama2-main-table",
    "gemma3-model-size",
    "stories260k-model-size",
    "opt-model-size",
    "llama-model-size",
    "qwen-model-size",
)
"""Experiments that compare methods; without any of them the table takes all runs."""


def main_table(
    runs: pd.DataFrame,
    experiments: Collection[str] = EXPERIMENTS,
    older: pd.DataFrame | None = None,
) -> PaperTable:
    """Full precision, then each setting, by model and bits.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        experiments: names of the experiments whose runs are taken.
        older: of :func:`crvq.report.finished_runs.older_revisions`, for a note.
    """
    settings = over_seeds(quantized_runs(of_experiments(runs, experiments)))
    if not settings.empty:
        settings = settings.assign(label=name_settings(settings))
        settings = settings.sort_values(["model", "bits"], kind="stable")
        settings = pd.concat([full_precision_rows(settings), settings], ignore_index=True)
        settings = settings.sort_values("model", kind="stable", ignore_index=True)
    columns = (
        *model_columns(settings),
        Column("method", "method", only_csv=True),
        Column("label", "method"),
        BITS,
        replace(BITS_ALL, only_csv=True),
        *perplexity_columns(settings),
        *average_columns(settings),
        *(replace(column, only_csv=True) for column in (SECONDS, MEMORY, GPU_MEMORY)),
        Column("runs", "seeds", "integer", only_csv=True),
        *origin_columns(settings),
        EXPERIMENT,
        RUN_IDS,
    )
    return PaperTable(
        name="main",
        title="Methods compared on one model, with all bits counted",
        frame=settings,
        columns=columns,
        notes=(
            *(notes(settings.dropna(subset=["runs"])) if len(settings) else ()),
            *older_note(older, experiments),
        ),
        section="model",
        section_rows=True,
        made_by="python run.py +experiments=methods",
    )


def full_precision_rows(settings: pd.DataFrame) -> pd.DataFrame:
    """One row per model with what its runs measured before quantization, on one kind of device."""
    rows = []
    for model, group in settings.groupby("model", sort=False):
        row = {"model": model, "label": "full precision", "method": "full_precision"}
        row["bits"] = row["bits_all"] = of_one_device(group, "full_precision_bits")
        for label in protocol_labels(settings):
            row[QUANTIZED + label] = of_one_device(group, FULL_PRECISION + label)
        for name in average_labels(settings):
            row[AVERAGE + name] = of_one_device(group, FULL_AVERAGE + name)
        rows.append(row)
    return pd.DataFrame(rows)
