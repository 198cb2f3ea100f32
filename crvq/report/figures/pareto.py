"""Bits against perplexity: our settings, their frontier, and what papers report."""

from __future__ import annotations

import html
import textwrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from crvq.report.figures.style import FAINT, PALETTE, SYMBOLS, empty_figure, plain_layout
from crvq.report.finished_runs import quantized_runs
from crvq.report.layout_names import method_name, name_settings
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED, protocol_labels
from crvq.report.published import published_perplexities
from crvq.report.settings import over_seeds

_HIGHEST_RATIO = 1000.0
"""Results beyond this many times full precision only squeeze the rest together: published ones are
left out, ours lie above the part that is shown first."""

_TICKS = [factor * 10**power for power in range(6) for factor in (1, 2, 5)]


def pareto_points(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a setting, protocol and model.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.

    Returns:
        ``model``, ``method``, ``label``, ``protocol``, ``bits``, ``perplexity``, ``spread`` (over
        seeds, NaN for one), ``full_precision``, ``relative`` (perplexity over full precision's),
        ``run_ids``, and ``best``: no setting of the same model and protocol has as few bits and
        as low a perplexity. Perplexities that are not finite are left out.
    """
    settings = over_seeds(quantized_runs(runs))
    names = name_settings(settings)
    frames = []
    for label in protocol_labels(settings):
        values = settings[QUANTIZED + label]
        frames.append(
            pd.DataFrame(
                {
                    "model": settings["model"],
                    "method": settings["method"],
                    "label": names,
                    "protocol": label,
                    "bits": settings["bits"],
                    "perplexity": values,
                    "spread": settings[f"{QUANTIZED}{label} std"],
                    "full_precision": settings[FULL_PRECISION + label],
                    "relative": values / settings[FULL_PRECISION + label],
                    "run_ids": settings["run_ids"],
                }
            )
        )
    if not frames:
        return pd.DataFrame()
    points = pd.concat(frames, ignore_index=True)
    points = points[np.isfinite(points["perplexity"]) & points["bits"].notna()]
    points = points.sort_values("bits", ignore_index=True)
    best = [
        frontier(group["bits"], group["perplexity"])
        for _, group in points.groupby(["model", "protocol"])
    ]
    return points.assign(best=pd.concat(best) if best else [])


def frontier(bits: pd.Series, perplexity: pd.Series) -> pd.Series:
    """Which points no other one beats in one of both without losing in the other."""
    flags = {}
    for index in bits.index:
        no_worse = (bits <= bits[index]) & (perplexity <= perplexity[index])
        better = (bits < bits[index]) | (perplexity < perplexity[index])
        flags[index] = not (no_worse & better).any()
    return pd.Series(flags, dtype=bool)


def pareto_figure(
    runs: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    relative: bool = True,
    highest_bits: float = 4.5,
) -> go.Figure:
    """Bits a weight against perplexity (both all in, logarithmic upwards), a line for the frontier.

    Published results are of other models. They are faint, in a separate legend group, and only
    shown as multiples of their own full precision (``relative``): 9 is a wreck for a 7B model and
    out of reach for a small one. Hovering tells values, source and confidence.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        published: of :func:`crvq.report.published.read_published`; None leaves them out.
        relative: perplexity as a multiple of full precision's instead of perplexity itself.
        highest_bits: no point beyond.
    """
    points = pareto_points(runs)
    if points.empty:
        return empty_figure("No finished run with a perplexity yet.")
    points = points[points["bits"] <= highest_bits]
    value = "relative" if relative else "perplexity"
    figure = go.Figure()
    if relative and published is not None:
        _add_published(figure, published, highest_bits)
    for number, (method, group) in enumerate(points.groupby("method", sort=True)):
        color = PALETTE[number % len(PALETTE)]
        symbol = SYMBOLS[number % len(SYMBOLS)]
        _add_method(figure, group, method_name(str(method)), value, color, symbol)
    series = points[points["best"]].groupby(["model", "protocol"])
    for (model, protocol), group in series:
        figure.add_scatter(
            x=group["bits"],
            y=group[value],
            mode="lines",
            line={"color": "#444444", "width": 1.5, "shape": "hv", "dash": "dot"},
            name="frontier" if len(series) == 1 else html.escape(f"frontier, {model}, {protocol}"),
            hoverinfo="skip",
        )
    figure.update_xaxes(title="bits a weight (ours: everything counted)")
    figure.update_yaxes(
        type="log",
        title="perplexity, times full precision" if relative else "perplexity",
        tickvals=_TICKS,
        ticktext=[f"{tick:,}" for tick in _TICKS],
    )
    _leave_ruins_above(figure, points, value)
    return plain_layout(
        figure, f"Bits against perplexity: {', '.join(points['model'].unique())}", 560
    )


def _leave_ruins_above(figure: go.Figure, points: pd.DataFrame, value: str) -> None:
    """Let the upwards axis end where results are ruins, if some are; a double click shows them."""
    ruins = points["relative"] > _HIGHEST_RATIO
    if not ruins.any() or ruins.all():
        return
    low, high = points.loc[~ruins, value].min(), points.loc[~ruins, value].max()
    figure.update_yaxes(range=[np.log10(0.7 * low), np.log10(2 * high)])
    figure.add_annotation(
        text=f"{int(ruins.sum())} above, at more than {_HIGHEST_RATIO:,.0f} times full precision: "
        "double click to see all",
        xref="paper",
        yref="paper",
        x=1,
        y=1.0,
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11, "color": "#666666"},
    )


def _add_method(
    figure: go.Figure, group: pd.DataFrame, name: str, value: str, color: str, symbol: str
) -> None:
    scale = group[value] / group["perplexity"]
    figure.add_scatter(
        x=group["bits"],
        y=group[value],
        error_y={"array": (group["spread"] * scale).fillna(0), "width": 3},
        mode="markers",
        marker={
            "color": color,
            "symbol": symbol,
            "size": 10,
            "line": {"width": 1, "color": "white"},
        },
        name=html.escape(name),
        text=[_our_hover(row) for row in group.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _add_published(figure: go.Figure, published: pd.DataFrame, highest_bits: float) -> None:
    rows = published_perplexities(published)
    rows = rows[(rows["bits"] <= highest_bits) & (rows["relative"] <= _HIGHEST_RATIO)]
    figure.add_scatter(
        x=rows["bits"],
        y=rows["relative"],
        mode="markers",
        marker={"color": FAINT, "size": 6, "symbol": "circle"},
        name="published, other models (hover for the source)",
        text=[_published_hover(row) for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _our_hover(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>{html.escape(str(row['label']))}</b>",
        html.escape(f"{row['model']}: {row['protocol']}"),
        f"{row['bits']:.3f} bits, perplexity {row['perplexity']:.5g}",
        f"full precision {row['full_precision']:.5g}",
        html.escape(str(row["run_ids"])),
    ]
    return "<br>".join(lines)


def _published_hover(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>{html.escape(str(row['method']))}</b>, {html.escape(str(row['model']))}",
        html.escape(f"{row['bits_stated']} bits, {row['dataset']}: {row['value']:g}"),
        html.escape(f"full precision {row['full_precision']:g}; context {row['context_stated']}"),
        *map(html.escape, textwrap.wrap(f"source: {row['source']}", 60)),
        html.escape(f"confidence: {row['confidence']}"),
        *map(html.escape, textwrap.wrap(str(row["note"]), 60)),
    ]
    return "<br>".join(lines)
