"""Where critical channels sit: which in features of each linear, block by block."""

from __future__ import annotations

import html
from collections import Counter

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from crvq.report.figures.layers import kind_order
from crvq.report.figures.style import PALETTE, empty_figure, plain_layout

_PANEL = 120
_NAMED = 6


def critical_map_figure(layers: pd.DataFrame, title: str) -> go.Figure:
    """Every critical in feature of every linear of one run: one panel per kind, one line per block.

    A panel's head names the in features that are critical in at least half of the blocks: a
    column of dots, where a channel of the residual stream stays critical through the model.

    Args:
        layers: rows of one run, of :func:`crvq.report.records.load_layers`.
        title: which run.
    """
    if layers.empty or not (layers["critical_channels"] > 0).any():
        return empty_figure("This run has no critical channels.")
    listed = layers.get("critical_in_features", pd.Series("", layers.index)).fillna("")
    layers = layers.assign(critical_in_features=listed)[listed != ""]
    if layers.empty:
        return empty_figure(
            "This run's layers.csv is from before it said which channels are critical."
        )
    kinds = kind_order(layers)
    panels = {kind: layers[layers["kind"] == kind] for kind in kinds}
    heads = [_head(kind, rows) for kind, rows in panels.items()]
    figure = make_subplots(
        rows=len(kinds),
        subplot_titles=heads,
        vertical_spacing=0.28 / len(kinds) if len(kinds) > 1 else 0.0,
    )
    for place, (kind, rows) in enumerate(panels.items(), start=1):
        figure.add_trace(_dots(kind, rows), row=place, col=1)
        width = int(rows["in_features"].iloc[0])
        figure.update_xaxes(range=[-0.01 * width, 1.01 * width], row=place, col=1)
    figure.update_yaxes(autorange="reversed", zeroline=False)
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title="in feature", row=len(kinds), col=1)
    middle = (len(kinds) + 1) // 2
    figure.update_yaxes(title="block", row=middle, col=1)
    figure.update_annotations(font={"size": 12}, x=0, xanchor="left")
    return plain_layout(figure, title, height=100 + _PANEL * len(kinds)).update_layout(
        showlegend=False
    )


def recurring_channels(rows: pd.DataFrame) -> list[int]:
    """In features that are critical in at least half of the blocks, the most frequent first.

    Args:
        rows: of one kind of linear of one run.
    """
    counts = Counter(
        channel for text in rows["critical_in_features"] for channel in critical_channels(text)
    )
    return [channel for channel, times in counts.most_common() if 2 * times >= len(rows)]


def _head(kind: str, rows: pd.DataFrame) -> str:
    again = recurring_channels(rows)
    name = html.escape(kind)
    if not again:
        return f"{name}: none is critical in half of the blocks"
    named = ", ".join(map(str, again[:_NAMED])) + (", …" if len(again) > _NAMED else "")
    return f"{name}: {len(again)} critical in at least half of the blocks ({named})"


def _dots(kind: str, rows: pd.DataFrame) -> go.Scatter:
    points = [
        (channel, int(block), rank)
        for block, text in zip(rows["block"], rows["critical_in_features"], strict=True)
        for rank, channel in enumerate(critical_channels(text), start=1)
    ]
    return go.Scatter(
        x=[channel for channel, _, _ in points],
        y=[block for _, block, _ in points],
        customdata=[rank for _, _, rank in points],
        mode="markers",
        marker={"symbol": "square", "size": 4, "color": PALETTE[0]},
        name=html.escape(kind),
        hovertemplate="block %{y}, in feature %{x}<br>%{customdata}. in the order of coding"
        "<extra></extra>",
    )


def critical_channels(text: str) -> list[int]:
    """Return the in features of a ``critical_in_features`` cell, in the order of coding."""
    return [int(number) for number in text.split()]
