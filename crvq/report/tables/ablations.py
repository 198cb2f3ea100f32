"""Ablations: settings that are equal in everything but the keys that a table is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from crvq.report.finished_runs import CONFIG, older_note, quantized_runs, setting_key
from crvq.report.layout_names import name_settings
from crvq.report.number_format import Style
from crvq.report.paper_table import Column, PaperTable
from crvq.report.perplexity_columns import QUANTIZED, protocol_labels
from crvq.report.settings import over_seeds
from crvq.report.tables.outcome_columns import (
    BITS,
    EXPERIMENT,
    RELATIVE_LOSS,
    RUN_IDS,
    SECONDS,
    model_columns,
    notes,
    origin_columns,
    perplexity_columns,
)

_PARAMS = f"{CONFIG}method_params."


@dataclass(frozen=True)
class Ablation:
    """What is varied, and against what changes are measured."""

    name: str
    title: str
    keys: dict[str, str]
    """Method parameters, and their heads."""
    reference: dict[str, Any] = field(default_factory=dict)
    """Values of those keys in the row that the others are compared with."""
    needs: dict[str, Any] = field(default_factory=dict)
    """Parameters that must differ from these values for the keys to mean anything."""
    made_by: str = ""
    experiment: str = ""
    """The experiment that the shipped sweep records."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The varied keys as columns of a frame of runs."""
        return tuple(_PARAMS + key for key in self.keys)


ABLATIONS = (
    Ablation(
        "critical_ratio",
        "Critical ratio λ",
        {"critical_ratio": "λ"},
        {"critical_ratio": 0.0},
        {"extended_codebooks": 0},
        "python run.py +experiments=critical_ratio",
        "smollm2-critical-ratio",
    ),
    Ablation(
        "extended_codebooks",
        "Number and bits of extended codebooks",
        {"extended_codebooks": "extended codebooks", "extended_bits": "bits of an index"},
        {"extended_codebooks": 0},
        {"critical_ratio": 0.0},
        "python run.py +experiments=extended_codebooks",
        "smollm2-extended-codebooks",
    ),
    Ablation(
        "importance",
        "How channels are ranked",
        {"importance": "importance"},
        {"importance": "error_activation"},
        {"critical_ratio": 0.0},
        "python run.py +experiments=importance",
        "smollm2-importance",
    ),
    Ablation(
        "channel_order",
        "Order of channels",
        {"reorder": "order"},
        {"reorder": "sorted"},
        made_by="python run.py +experiments=channel_order",
        experiment="smollm2-channel-order",
    ),
    Ablation(
        "codebook_scope",
        "Who shares codebooks, and how they are stored",
        {"codebook_scope": "codebooks of each", "codebook_dtype": "stored in"},
        {"codebook_scope": "linear", "codebook_dtype": "float16"},
        made_by="python run.py +experiments=codebook_scope",
        experiment="smollm2-codebook-scope",
    ),
    Ablation(
        "base_vq",
        "Base vector quantization: length of vectors and bits of an index",
        {"group_size": "d", "codebook_bits": "bits of an index"},
        {"group_size": 8, "codebook_bits": 8},
        made_by="python run.py +experiments=base_vq",
        experiment="smollm2-base-vq",
    ),
)


def ablation_table(
    runs: pd.DataFrame, ablation: Ablation, older: pd.DataFrame | None = None
) -> PaperTable:
    """Return all groups of settings that differ in nothing but the ablation's keys.

    Groups are found by looking at configurations, not at the names of experiments: any runs that
    answer the question are used. ``change`` is the first perplexity against that of the
    reference in the same group.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        ablation: what to look for.
        older: of :func:`crvq.report.finished_runs.older_revisions`, for a note.
    """
    settings = matched_settings(runs, ablation)
    several = not settings.empty and settings["shared"].any()
    columns = [*model_columns(settings), Column("shared", "with", only_csv=not several)]
    for key, head in ablation.keys.items():
        style: Style = "value" if _is_numeric(settings, _PARAMS + key) else "text"
        columns.append(Column(_PARAMS + key, head, style))
        if key == "critical_ratio":
            columns.append(Column("effective.critical_ratio", "in whole groups", "loss"))
    columns += [BITS, *perplexity_columns(settings), Column("change", "change", "percent")]
    columns += [RELATIVE_LOSS, SECONDS, *origin_columns(settings), EXPERIMENT, RUN_IDS]
    return PaperTable(
        name=f"ablation_{ablation.name}",
        title=ablation.title,
        frame=settings,
        columns=tuple(columns),
        notes=(*notes(settings), *older_note(older, [ablation.experiment])),
        section="group",
        made_by=ablation.made_by,
    )


def matched_settings(runs: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """Settings of the groups that an ablation can use, with ``group`` and ``change``."""
    settings = over_seeds(_meaningful(quantized_runs(runs), ablation))
    if settings.empty:
        return settings
    groups = [setting_key(one, ablation.columns) for one in settings["settings"]]
    settings = settings.assign(group=groups)
    several = settings.groupby("group")["setting"].transform("nunique") > 1
    settings = settings[several].reset_index(drop=True)
    if settings.empty:
        return settings
    settings = settings.assign(
        shared=_shared(settings, ablation), change=_changes(settings, ablation)
    )
    by = [column for column in ablation.columns if _is_numeric(settings, column)]
    by = by or [QUANTIZED + label for label in protocol_labels(settings)[:1]]
    settings = settings.sort_values("model", kind="stable")
    ordered = [group.sort_values(by) for _, group in settings.groupby("group", sort=False)]
    return pd.concat(ordered, ignore_index=True)


def _meaningful(runs: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """Runs of methods that have the keys, where these do something."""
    if runs.empty or any(column not in runs for column in ablation.columns):
        return pd.DataFrame()
    kept = runs[list(ablation.columns)].notna().all(axis=1)
    for key, nothing in ablation.needs.items():
        kept &= runs.get(_PARAMS + key, pd.Series(nothing, runs.index)) != nothing
    return runs[kept]


def _shared(settings: pd.DataFrame, ablation: Ablation) -> pd.Series:
    """Return what distinguishes the groups of one model; empty where a model has one group."""
    shared = pd.Series("", index=settings.index)
    for _, rows in settings.groupby("model", sort=False):
        if rows["group"].nunique() > 1:
            labels = name_settings(rows, but=ablation.columns)
            shared.update(rows["group"].map(dict(zip(rows["group"], labels, strict=True))))
    return shared


def _changes(settings: pd.DataFrame, ablation: Ablation) -> list[float]:
    """First perplexity that the reference has too against its own, minus one; else NaN."""
    is_reference = pd.Series(bool(ablation.reference), index=settings.index)
    for key, value in ablation.reference.items():
        is_reference &= settings[_PARAMS + key] == value
    changes = pd.Series(float("nan"), index=settings.index)
    for label in protocol_labels(settings):
        perplexity = settings[QUANTIZED + label]
        reference = perplexity[is_reference].groupby(settings["group"]).first()
        changes = changes.fillna(perplexity / settings["group"].map(reference) - 1)
    return changes.mask(is_reference).tolist()


def _is_numeric(settings: pd.DataFrame, column: str) -> bool:
    if settings.empty:
        return False
    return bool(pd.to_numeric(settings[column], errors="coerce").notna().all())
