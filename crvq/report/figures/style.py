"""How figures look: one palette that colour-blind readers can tell apart, one plain layout."""

from __future__ import annotations

import html

import plotly.graph_objects as go

PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F3C8D",
    "#8C6D31",
)
"""Okabe and Ito's colours, without black and yellow, and two more."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon")
FAINT = "rgba(110, 110, 110, 0.45)"


def empty_figure(text: str) -> go.Figure:
    """Return a figure that says why it shows nothing."""
    figure = go.Figure()
    figure.add_annotation(text=html.escape(text), showarrow=False, font={"size": 14})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return plain_layout(figure, "", height=160)


def plain_layout(figure: go.Figure, title: str, height: int = 480) -> go.Figure:
    """White ground, the legend below, room for the title. Returns ``figure``."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": html.escape(title), "x": 0, "xref": "paper", "font": {"size": 16}},
        height=height,
        margin={"l": 70, "r": 20, "t": 50 if title else 20, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
    )
