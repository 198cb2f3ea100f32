"""Fine-tuning stages by method."""

from __future__ import annotations

import pandas as pd

from crvq.report.finetune_stages import FINETUNE, NONE, NORMS, finetune_stage
from crvq.report.finished_runs import quantized_runs, setting_key
from crvq.report.layout_names import name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.settings import over_seeds
from crvq.report.tables.outcome_columns import (
    BITS,
    EXPERIMENT,
    MEMORY,
    RUN_IDS,
    SECONDS,
    average_columns,
    model_columns,
    notes,
    origin_columns,
    perplexity_columns,
)

_STAGES = ("block", "end to end", "block + end to end")
_ORDER = (NONE, *(stage + what for stage in _STAGES for what in (NORMS, "")))


def finetune_keys(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return all columns that configure fine-tuning."""
    return tuple(str(name) for name in runs if str(name).startswith(FINETUNE))


def finetuning_table(runs: pd.DataFrame) -> PaperTable:
    """Settings that differ in nothing but fine-tuning, and were fine-tuned in one of them.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
    """
    settings = over_seeds(quantized_runs(runs))
    if not settings.empty:
        but = finetune_keys(settings)
        stages = [finetune_stage(one) for one in settings["settings"]]
        groups = [setting_key(one, but) for one in settings["settings"]]
        settings = settings.assign(stage=pd.Categorical(stages, _ORDER, ordered=True), group=groups)
        tuned = (settings["stage"] != NONE).groupby(settings["group"]).transform("any")
        settings = settings[tuned].reset_index(drop=True)
    if not settings.empty:
        left_out = set(finetune_keys(settings))
        bare = [
            {key: value for key, value in one.items() if key not in left_out}
            for one in settings["settings"]
        ]
        untuned = settings.copy()
        untuned["settings"] = pd.Series(bare, index=untuned.index)
        settings["label"] = name_settings(untuned)
        names = settings.groupby("group")["label"].first()
        settings["label"] = settings["group"].map(names)
        settings = settings.sort_values(["model", "label", "stage"], ignore_index=True)
        settings["stage"] = settings["stage"].astype(str)
    columns = (
        *model_columns(settings),
        Column("label", "method"),
        Column("stage", "fine-tuning"),
        BITS,
        *perplexity_columns(settings),
        *average_columns(settings),
        SECONDS,
        MEMORY,
        *origin_columns(settings),
        EXPERIMENT,
        RUN_IDS,
    )
    return PaperTable(
        name="finetuning",
        title="Stages of fine-tuning",
        frame=settings,
        columns=columns,
        notes=notes(settings),
        section="label",
        made_by="python run.py +experiments=finetune_stages",
    )
