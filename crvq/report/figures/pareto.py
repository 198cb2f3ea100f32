"""Bits against perplexity: our settings, their frontier, and what papers report."""

from __future__ import annotations

import html
import textwrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from crvq.report.figures.style import FAINT, PALETTE, SYMBOLS, empty_figure, plain_layout
from crvq.report.finetune_stages import NONE, finetune_stage
from crvq.report.finished_runs import quantized_runs
from crvq.report.layout_names import method_name, name_settings
from crvq.report.perplexity_columns import (
    FULL_PRECISION,
    QUANTIZED,
    protocol_labels,
    protocols_by_settings,
)
from crvq.report.published import published_perplexities
from crvq.report.settings import over_seeds

_HIGHEST_RATIO = 1000.0
"""Results beyond this many times full precision only squeeze the rest together: published ones are
left out, ours lie above the part that is shown first."""

FEWEST_SETTINGS = 5
"""Protocols with fewer settings make no figure of their own."""
_LAST = 2000
"""Rank in the legend of what has no point in the part that is shown first; others have 1000."""
_INKS = ("#444444", "#a6611a", "#5e3c99")
"""Of the frontiers of several models."""
_TICKS = [factor * 10**power for power in range(6) for factor in (1, 2, 5)]


def pareto_points(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, protocol and model.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.

    Returns:
        ``model``, ``method``, ``label``, ``stage`` (of fine-tuning), ``tuned``, ``protocol``,
        ``bits``, ``perplexity``, ``spread`` (over seeds, NaN for one), ``full_precision``,
        ``relative`` (perplexity over full precision's), ``run_ids``, and ``best``: no setting of
        the same model and protocol, fine-tuned or not as this one, has as few bits and as low a
        perplexity. Perplexities that are not finite are left out.
    """
    settings = over_seeds(quantized_runs(runs))
    names = name_settings(settings)
    stages = [finetune_stage(row["settings"]) for row in settings.to_dict("records")]
    frames = []
    for label in protocol_labels(settings):
        values = settings[QUANTIZED + label]
        frames.append(
            pd.DataFrame(
                {
                    "model": settings["model"],
                    "method": settings["method"],
                    "label": names,
                    "stage": stages,
                    "tuned": [stage != NONE for stage in stages],
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
        for _, group in points.groupby(["model", "protocol", "tuned"])
    ]
    return points.assign(best=pd.concat(best) if best else [])


def frontier(bits: pd.Series, perplexity: pd.Series) -> pd.Series:
    """Return which points no other one beats in one of both without losing in the other."""
    flags = {}
    for index in bits.index:
        no_worse = (bits <= bits[index]) & (perplexity <= perplexity[index])
        better = (bits < bits[index]) | (perplexity < perplexity[index])
        flags[index] = not (no_worse & better).any()
    return pd.Series(flags, dtype=bool)


def pareto_protocols(runs: pd.DataFrame, least: int = FEWEST_SETTINGS) -> list[str]:
    """Protocols that enough settings were measured on for a figure, those of most first.

    The first one is there however few settings it has: what there is, is shown.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        least: settings that are enough.
    """
    counts = protocols_by_settings(over_seeds(quantized_runs(runs)))
    return [label for n, (label, count) in enumerate(counts.items()) if count >= least or n == 0]


def pareto_models(runs: pd.DataFrame, protocol: str | None) -> list[str]:
    """Models that were measured on a protocol, those of most settings first.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        protocol: its label; None where there is none.
    """
    points = pareto_points(runs)
    if points.empty:
        return []
    return list(points.loc[points["protocol"] == protocol, "model"].value_counts().index)


def pareto_figure(
    runs: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    protocol: str | None = None,
    model: str | None = None,
    relative: bool = True,
    highest_bits: float = 4.5,
    points: pd.DataFrame | None = None,
) -> go.Figure:
    """Bits per weight against perplexity (both all in, logarithmic upwards), on one protocol.

    Fine-tuned settings have open symbols and a frontier of their own: what training brings is not
    the quantizer's.

    Published results are of other models. They are faint, in a separate legend group, and only
    shown as multiples of their own full precision (``relative``): 9 is degenerate for a 7B model
    and out of reach for a small one. Hovering shows values, source and confidence.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        published: of :func:`crvq.report.published.read_published`; None leaves them out.
        protocol: its label, as :func:`pareto_protocols` gives it; that of most settings by default.
        model: only this one; all by default, which only their ratios to full precision allow:
            tokens of other vocabularies are other tokens.
        relative: perplexity as a multiple of full precision's instead of perplexity itself.
        highest_bits: no point beyond.
        points: of :func:`pareto_points` of these runs, where several figures are made of them.
    """
    points = pareto_points(runs) if points is None else points
    if points.empty:
        return empty_figure("No finished run with a perplexity yet.")
    methods = sorted(points["method"].unique())  # a method looks alike in all figures
    protocol = protocol or pareto_protocols(runs)[0]
    points = points[(points["bits"] <= highest_bits) & (points["protocol"] == protocol)]
    points = points if model is None else points[points["model"] == model]
    if points.empty:
        return empty_figure(f"No finished run with a perplexity on {protocol}.")
    value = "relative" if relative else "perplexity"
    figure = go.Figure()
    shown = list(points.loc[points["relative"] <= _HIGHEST_RATIO, value])
    if relative and published is not None:
        shown += _add_published(figure, published, highest_bits)
    for method, group in points.groupby("method", sort=True):
        number = methods.index(method)
        color = PALETTE[number % len(PALETTE)]
        symbol = SYMBOLS[number % len(SYMBOLS)]
        for tuned, part in group.groupby("tuned"):
            name = method_name(str(method)) + (", fine-tuned" if tuned else "")
            look = f"{symbol}-open" if tuned else symbol
            _add_method(figure, part, name, value, color, look)
    _add_frontiers(figure, points, value)
    figure.update_xaxes(title="bits per weight (ours: everything counted)")
    figure.update_yaxes(
        type="log",
        title="perplexity, times full precision" if relative else "perplexity",
        tickvals=_TICKS,
        ticktext=[f"{tick:,}" for tick in _TICKS],
    )
    _leave_outliers_above(figure, points, shown)
    models = ", ".join(points["model"].unique())
    return plain_layout(figure, f"Bits against perplexity: {models}; {protocol}", 560)


def _add_frontiers(figure: go.Figure, points: pd.DataFrame, value: str) -> None:
    """A line for what no setting beats, of each model: without fine-tuning, and with it."""
    models = sorted(points["model"].unique())
    for (model, tuned), group in points[points["best"]].groupby(["model", "tuned"]):
        name = (
            "frontier"
            + (f", {model}" if len(models) > 1 else "")
            + (", fine-tuned" if tuned else "")
        )
        figure.add_scatter(
            x=group["bits"],
            y=group[value],
            mode="lines",
            line={
                "color": _INKS[models.index(model) % len(_INKS)],
                "width": 1.5,
                "shape": "hv",
                "dash": "dash" if tuned else "dot",
            },
            name=html.escape(name),
            hoverinfo="skip",
        )


def _leave_outliers_above(figure: go.Figure, points: pd.DataFrame, shown: list[float]) -> None:
    """Let the upwards axis end below degenerate results, if any; a double click shows them.

    Args:
        figure: to change.
        points: ours.
        shown: the heights of all points, published ones too, that must be in view.
    """
    outliers = points["relative"] > _HIGHEST_RATIO
    if not outliers.any() or outliers.all():
        return
    figure.update_yaxes(range=[np.log10(0.7 * min(shown)), np.log10(1.5 * max(shown))])
    figure.add_annotation(
        text=f"{int(outliers.sum())} above {_HIGHEST_RATIO:,.0f}: double click to see all",
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
    in_view = (group["relative"] <= _HIGHEST_RATIO).any()
    figure.add_scatter(
        x=group["bits"],
        y=group[value],
        error_y={"array": (group["spread"] * scale).fillna(0), "width": 3},
        mode="markers",
        marker={
            "color": color,
            "symbol": symbol,
            "size": 10,
            # The border is all that there is of an open symbol.
            "line": {"width": 2} if symbol.endswith("-open") else {"width": 1, "color": "white"},
        },
        name=html.escape(name),
        legendrank=None if in_view else _LAST,
        text=[_our_hover(row) for row in group.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _add_published(figure: go.Figure, published: pd.DataFrame, highest_bits: float) -> list[float]:
    """Adds the faint points and returns their heights."""
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
    return list(rows["relative"])


def _our_hover(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>{html.escape(str(row['label']))}</b>",
        html.escape(f"{row['model']}: {row['protocol']}"),
        html.escape(f"fine-tuning: {row['stage']}"),
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
