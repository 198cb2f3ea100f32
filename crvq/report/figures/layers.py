"""Linears of runs: where quantization loses, and where critical channels sit."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from crvq.report.figures.style import PALETTE, SYMBOLS, empty_figure, plain_layout
from crvq.report.tables.layers import loss_by_kind

_NOTHING = "No layer tables yet."


def kind_order(layers: pd.DataFrame) -> list[str]:
    """Kinds of linears in the order in which a block has them."""
    return [str(kind) for kind in dict.fromkeys(layers["kind"])]


def loss_map_figure(layers: pd.DataFrame, title: str) -> go.Figure:
    """Relative loss of every linear of one run, block by kind, on a logarithmic colour scale.

    Args:
        layers: rows of one run.
        title: which run.
    """
    if layers.empty:
        return empty_figure(_NOTHING)
    kinds = kind_order(layers)
    wide = layers.pivot_table(index="kind", columns="block", values="relative_loss").loc[kinds]
    with np.errstate(divide="ignore"):
        logs = np.log10(wide.to_numpy())
    logs = np.where(np.isfinite(logs), logs, np.nan)
    ticks = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0]
    figure = go.Figure(
        go.Heatmap(
            x=wide.columns,
            y=[html.escape(kind) for kind in kinds],
            z=logs,
            customdata=wide.to_numpy(),
            hovertemplate="block %{x}, %{y}<br>relative loss %{customdata:.3g}<extra></extra>",
            colorscale="Cividis",
            colorbar={
                "title": "relative<br>loss",
                "tickvals": [float(np.log10(tick)) for tick in ticks],
                "ticktext": [f"{tick:g}" for tick in ticks],
            },
            xgap=1,
            ygap=1,
        )
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title="block")
    return plain_layout(figure, title, height=340)


def loss_by_block_figure(layers: pd.DataFrame, labels: dict[str, str]) -> go.Figure:
    """Mean relative loss of each block's linears, one line per run, logarithmic upwards.

    Args:
        layers: rows of several runs.
        labels: names by the run's folder; runs without one are left out.
    """
    if layers.empty or not labels:
        return empty_figure(_NOTHING)
    means = layers.groupby(["folder", "block"])["relative_loss"].mean()
    figure = go.Figure()
    for number, (run, label) in enumerate(labels.items()):
        if run not in means.index:
            continue
        values = means.loc[run]
        figure.add_scatter(
            x=values.index,
            y=values.to_numpy(),
            name=html.escape(label),
            mode="lines+markers",
            line={"color": PALETTE[number % len(PALETTE)], "width": 2},
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 6},
        )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="relative loss, mean of linears", type="log")
    return plain_layout(figure, "Where quantization loses", height=460)


def critical_figure(layers: pd.DataFrame, title: str) -> go.Figure:
    """Return what part of each linear's in features is critical, and what it pays in bits.

    Args:
        layers: rows of one run.
        title: which run.
    """
    table = loss_by_kind(layers)
    if table.empty or not (table["critical_channels"] > 0).any():
        return empty_figure("This run has no critical channels.")
    share = table["critical_channels"] / table["in_features"]
    text = [
        f"{channels:.0f} of {features}"
        for channels, features in zip(table["critical_channels"], table["in_features"], strict=True)
    ]
    figure = go.Figure(
        go.Bar(
            x=[html.escape(str(kind)) for kind in table["kind"]],
            y=100 * share,
            text=text,
            textposition="outside",
            marker={"color": PALETTE[0]},
            hovertemplate="%{x}<br>%{y:.2f} %: %{text} in features<extra></extra>",
        )
    )
    figure.update_yaxes(title="critical in features, %", range=[0, float(130 * share.max())])
    return plain_layout(figure, title, height=360)
