"""Kinds of linears: where quantization loses, what they cost, how many channels are critical."""

from __future__ import annotations

import pandas as pd

from crvq.report.finished_runs import quantized_runs
from crvq.report.layout_names import layout_name, name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.perplexity_columns import QUANTIZED, protocol_labels
from crvq.report.settings import over_seeds


def best_runs(runs: pd.DataFrame, most: int = 6) -> dict[str, str]:
    """The run with the lowest perplexity of each model, method and layout; names by run id.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        most: layouts at most, those with the fewest bits first.
    """
    settings = over_seeds(quantized_runs(runs))
    labels = protocol_labels(settings)
    if settings.empty or not labels:
        return {}
    layouts = [layout_name(row) for row in settings.to_dict("records")]
    settings = settings.assign(layout=layouts).sort_values(QUANTIZED + labels[0])
    best = settings.drop_duplicates(["model", "layout"]).sort_values("bits").head(most)
    first = best["run_ids"].str.split().str[0]
    return dict(zip(first, name_settings(best), strict=True))


def loss_by_kind(layers: pd.DataFrame) -> pd.DataFrame:
    """By run and kind: mean and largest relative loss, bits a weight, critical channels.

    Bits are all bits of the kind over all its weights, not a mean of means.

    Args:
        layers: of :func:`crvq.report.records.load_layers`.
    """
    if layers.empty:
        return pd.DataFrame()
    layers = layers.drop_duplicates(["run_id", "name"])  # one run may lie in two experiments
    weights = layers["out_features"] * layers["in_features"]
    table = layers.assign(weights=weights, total_bits=layers["bits"] * weights)
    grouped = table.groupby(["run_id", "kind"], sort=False).agg(
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
        labels: names by run id (:func:`best_runs`); other runs are left out.
    """
    table = loss_by_kind(layers)
    if not table.empty:
        table = table[table["run_id"].isin(labels)]
        order = list(labels)
        table = table.sort_values("run_id", key=lambda ids: ids.map(order.index), kind="stable")
        table = table.assign(label=table["run_id"].map(labels)).reset_index(drop=True)
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
        title="Linears by kind: the best run of each layout",
        frame=table,
        columns=columns,
        notes=("Relative loss: tr(ΔW H ΔWᵀ) / tr(W H Wᵀ), over blocks.",) if len(table) else (),
        section="label",
        made_by="python run.py",
    )
