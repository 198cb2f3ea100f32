"""Kinds of linears: where quantization loses, what they cost, how many channels are critical."""

from __future__ import annotations

from typing import Any

import pandas as pd

from crvq.report.finetune_stages import NONE, finetune_stage
from crvq.report.finished_runs import quantized_runs
from crvq.report.layout_names import layout_name, name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED, protocols_by_settings
from crvq.report.settings import over_seeds

LAYER_NOTES = (
    "Relative loss: tr(ΔW H ΔWᵀ) / tr(W H Wᵀ), over blocks; of fine-tuned runs as it was before "
    "fine-tuning.",
)


def best_runs(runs: pd.DataFrame, most: int = 6) -> dict[str, str]:
    """Return the best run of each of the best layouts, with its name, by the run's folder; by bits.

    The best loses least perplexity against full precision, on the protocol that most settings
    were measured on. λ is no part of a layout here: a sweep of λ would fill the list. Names say
    the stages of fine-tuning.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        most: layouts at most.
    """
    settings = over_seeds(quantized_runs(runs))
    counts = protocols_by_settings(settings)
    label = next((name for name, count in counts.items() if count), None)
    if label is None:
        return {}
    rows = settings.to_dict("records")
    best = (
        settings.assign(
            layout=[layout_name(row, ratio=False) for row in rows],
            damage=settings[QUANTIZED + label] / settings[FULL_PRECISION + label],
        )
        .dropna(subset=["damage"])
        .sort_values("damage", kind="stable")
        .drop_duplicates(["model", "layout"])
        .head(most)
        .sort_values("bits", kind="stable")
    )
    several = best["model"].nunique() > 1
    names = [
        (f"{row['model']}: " if several else "") + name + _tuned(row)
        for row, name in zip(best.to_dict("records"), name_settings(best), strict=True)
    ]
    return dict(zip(best["folder"], names, strict=True))


def loss_by_kind(layers: pd.DataFrame) -> pd.DataFrame:
    """By run and kind: mean and largest relative loss, bits per weight, critical channels.

    Bits are all bits of the kind over all its weights, not a mean of means.

    Args:
        layers: of :func:`crvq.report.records.load_layers`.
    """
    if layers.empty:
        return pd.DataFrame()
    weights = layers["out_features"] * layers["in_features"]
    table = layers.assign(weights=weights, total_bits=layers["bits"] * weights)
    grouped = table.groupby(["folder", "run_id", "kind"], sort=False).agg(
        relative_loss=("relative_loss", "mean"),
        worst=("relative_loss", "max"),
        weights=("weights", "sum"),
        total_bits=("total_bits", "sum"),
        critical_channels=("critical_channels", "mean"),
        in_features=("in_features", "first"),
    )
    grouped["bits"] = grouped["total_bits"] / grouped["weights"]
    return grouped.drop(columns=["weights", "total_bits"]).reset_index()


def layers_table(layers: pd.DataFrame, labels: dict[str, str]) -> PaperTable:
    """Kinds of linears of some runs.

    Args:
        layers: of :func:`crvq.report.records.load_layers`.
        labels: names by the run's folder (:func:`best_runs`); other runs are left out.
    """
    table = loss_by_kind(layers)
    if not table.empty:
        table = table[table["folder"].isin(labels)]
        order = list(labels)
        table = table.sort_values("folder", key=lambda names: names.map(order.index), kind="stable")
        table = table.assign(label=table["folder"].map(labels)).reset_index(drop=True)
    columns = (
        Column("label", "run"),
        Column("kind", "linear"),
        Column("relative_loss", "relative loss, mean", "loss"),
        Column("worst", "worst", "loss"),
        Column("bits", "bits", "bits"),
        Column("critical_channels", "critical channels", "value"),
        Column("in_features", "in features", "integer"),
        Column("run_id", "runs", only_csv=True),
    )
    return PaperTable(
        name="layers",
        title="Linears by kind: the best run of each of the best layouts",
        frame=table,
        columns=columns,
        notes=LAYER_NOTES if len(table) else (),
        section="label",
        made_by="python run.py",
    )


def _tuned(row: dict[Any, Any]) -> str:
    stage = finetune_stage(row["settings"])
    return "" if stage == NONE else f" · fine-tuned: {stage}"
