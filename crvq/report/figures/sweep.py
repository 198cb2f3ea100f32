"""Figures of one sweep: parallel coordinates, which key matters, and the outcome along a key."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from crvq.report.figures.style import FAINT, PALETTE, SYMBOLS, plain_layout
from crvq.report.finished_runs import SEEDS
from crvq.report.run_labels import differing_values, short_names, show
from crvq.report.run_table import Measure, Row

_MOST_AXES = 8
_MOST_LINES = 200
"""Lines of the parallel coordinates: those of the best outcomes."""
_MOST_TICKS = 7
_LOGARITHMIC = 4.0
"""Outcomes that span more than so many times their least are drawn on a logarithmic scale."""


def swept_values(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the configuration values in which rows differ: one line each, seeds left out.

    Columns are named by the last part of their key where that is clear; values that are lists or
    missing are texts, so that a column is either all numbers or all texts.
    """
    seeds = {seed.removeprefix("config.") for seed in SEEDS}
    values = [
        {key: value for key, value in row.items() if key not in seeds}
        for row in differing_values([row.first for row in rows])
    ]
    frame = pd.DataFrame(values)
    frame = frame.rename(columns=short_names([str(key) for key in frame.columns]))
    for name in frame.columns:
        column = list(frame[name])
        if not all(_is_number(value) for value in column):
            frame[name] = ["-" if _is_absent(value) else show(value) for value in column]
    return frame


def importance(values: pd.DataFrame, outcome: pd.Series) -> pd.Series:
    """Return by key the part of the outcome's variance that its values alone explain (eta²).

    It is the between-group sum of squares over the total one, which on a full grid is the key's
    first-order Sobol index (the main effect of fANOVA, Hutter et al. 2014). Numbers that were
    searched, with more values than a grid has, are grouped into thirds.

    Args:
        values: of :func:`swept_values`.
        outcome: one number per line; logarithms where it spans decades.
    """
    total = float(((outcome - outcome.mean()) ** 2).sum())
    parts = {}
    for name in values.columns:
        groups = outcome.groupby(_levels(values[name]))
        if total <= 0 or groups.ngroups < 2 or groups.ngroups == len(outcome):
            continue
        sizes, means = groups.size(), groups.mean()
        parts[str(name)] = float((sizes * (means - outcome.mean()) ** 2).sum()) / total
    return pd.Series(parts, dtype=float).sort_values()


def sweep_figures(rows: Sequence[Row], measure: Measure) -> dict[str, go.Figure]:
    """Return the figures of one experiment and outcome, by a head.

    A grid or a search has a figure along its best axis, and one of what matters. Presets that set
    many keys together have neither: no key alone is what such an experiment is about.

    Args:
        rows: of one experiment.
        measure: the outcome; rows without a finite value are left out.
    """
    known = [row for row in rows if row.settings and _finite(row.mean(measure))]
    if len(known) < 2:
        return {}
    values = swept_values(known)
    outcome = pd.Series([float(row.mean(measure) or 0.0) for row in known])
    logs = bool(outcome.min() > 0 and outcome.max() > _LOGARITHMIC * outcome.min())
    figures = {}
    searched = any(_is_searched(values[name]) for name in values)
    axis = _best_axis(values)
    if axis is not None and (searched or _is_grid(values)):
        figures[f"{measure.title} along {axis}"] = _curve(known, values, axis, measure, logs)
    else:
        figures[f"{measure.title} by setting"] = _dots(known, measure, logs)
    if values.shape[1] > 1:
        figures["parallel coordinates"] = _parallel(known, values, measure, outcome, logs)
    parts = importance(values, pd.Series(np.log(outcome)) if logs else outcome)
    if len(parts) > 1 and len(known) > 3 and (searched or _is_grid(values)):
        figures["what matters"] = _importance_bars(parts)
    return figures


def _levels(column: pd.Series) -> pd.Series:
    return pd.qcut(column, 3, duplicates="drop") if _is_searched(column) else column.map(show)


def _is_searched(column: pd.Series) -> bool:
    """Return whether numbers were drawn and not listed: most runs have one of their own."""
    return _numeric(column) and len(column) > 6 and 3 * column.nunique() > 2 * len(column)


def _is_grid(values: pd.DataFrame) -> bool:
    """Return whether keys vary by themselves: more than half of the combinations are there."""
    if values.empty:
        return False
    texts = values.map(show)
    return 2 * len(texts.drop_duplicates()) > math.prod(texts.nunique())


def _best_axis(values: pd.DataFrame) -> str | None:
    """Return the key for a horizontal axis: numbers before names, many values before few."""

    def rank(name: str) -> tuple[bool, int]:
        return not _numeric(values[name]), -values[name].map(show).nunique()

    names = sorted(map(str, values.columns), key=rank)
    return names[0] if names else None


def _curve(
    rows: Sequence[Row], values: pd.DataFrame, axis: str, measure: Measure, logs: bool
) -> go.Figure:
    """Draw the outcome along a key, mean and s.d. over seeds; a line per value of the others."""
    others = [name for name in values.columns if name != axis]
    names = values[others].apply(
        lambda line: " ".join(f"{key}={show(value)}" for key, value in line.items()), axis=1
    )
    numeric = _numeric(values[axis])
    several = not numeric or names.nunique() > len(SYMBOLS)
    groups = {"": range(len(rows))} if several else values.groupby(names, sort=False).indices
    figure = go.Figure()
    for number, (name, places) in enumerate(groups.items()):
        line = sorted(places, key=lambda place: values[axis][place]) if numeric else list(places)
        color = PALETTE[number % len(PALETTE)]
        figure.add_scatter(
            x=[values[axis][place] for place in line],
            y=[rows[place].mean(measure) for place in line],
            error_y={"array": [rows[place].std(measure) or 0 for place in line], "width": 3},
            mode="lines+markers" if numeric and not several else "markers",
            name=html.escape(str(name)) or html.escape(measure.title),
            line={"color": color, "width": 2},
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            text=[_hover(rows[place], measure) for place in line],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_yaxes(type="log" if logs else "linear")
    figure.update_xaxes(type=None if numeric else "category")
    figure.update_layout(showlegend=len(groups) > 1)
    return _plain(figure, 380)


def _dots(rows: Sequence[Row], measure: Measure, logs: bool) -> go.Figure:
    """Draw the outcome of every setting by its name, the best one on top."""
    ordered = sorted(rows, key=lambda row: row.mean(measure) or 0.0)
    ordered = ordered[::-1] if measure.lower_is_better else ordered
    figure = go.Figure(
        go.Scatter(
            x=[row.mean(measure) for row in ordered],
            y=[_short(row.name, 44) for row in ordered],
            error_x={"array": [row.std(measure) or 0 for row in ordered], "width": 3},
            mode="markers",
            marker={"size": 8, "color": PALETTE[0]},
            text=[_hover(row, measure) for row in ordered],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_xaxes(type="log" if logs else "linear")
    figure.update_yaxes(automargin=True, ticksuffix="  ")
    return _plain(figure, 70 + 22 * max(4, len(ordered)))


def _parallel(
    rows: Sequence[Row], values: pd.DataFrame, measure: Measure, outcome: pd.Series, logs: bool
) -> go.Figure:
    """Draw one line per row through its values and its outcome, coloured by the outcome.

    plotly's own parallel coordinates need WebGL, which not every browser has.
    """
    best = outcome.sort_values(ascending=measure.lower_is_better).index[:_MOST_LINES]
    order = sorted(values.columns, key=lambda name: -values[name].map(show).nunique())
    columns = [
        *((str(name), values[name]) for name in order[:_MOST_AXES]),
        (measure.title, outcome),
    ]
    axes = [_axis(column, logs=logs and name == measure.title) for name, column in columns]
    ends = axes[-1][0]
    colors = sample_colorscale(
        "Cividis", [0.25 + 0.75 * min(1.0, max(0.0, _goodness(end, measure))) for end in ends]
    )
    figure = go.Figure()
    for place in reversed(best):
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[heights[place] for heights, _ in axes],
            mode="lines+markers",
            line={"color": colors[place], "width": 1.5},
            marker={"size": 5},
            showlegend=False,
            text=[_hover(rows[place], measure)] * len(axes),
            hovertemplate="%{text}<extra></extra>",
        )
    for number, (_, ticks) in enumerate(axes):
        figure.add_vline(x=number, line={"width": 1, "color": FAINT})
        for height, text in ticks:
            figure.add_annotation(
                x=number,
                y=height,
                text=html.escape(text),
                showarrow=False,
                font={"size": 10},
                xanchor="left",
                xshift=4,
                yshift=7,
            )
    names = [html.escape(_short(name, 22)) for name, _ in columns]
    figure.update_xaxes(
        tickvals=list(range(len(axes))),
        ticktext=names,
        showgrid=False,
        zeroline=False,
        range=[-0.1, len(axes) - 0.5],
        tickangle=20 if len(axes) > 5 else 0,
    )
    figure.update_yaxes(visible=False, range=[-0.05, 1.1])
    return _plain(figure, 380)


def _goodness(height: float, measure: Measure) -> float:
    return 1 - height if measure.lower_is_better else height


def _axis(column: pd.Series, logs: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the heights of a key's values between 0 and 1, and what its ticks say at which."""
    texts = list(dict.fromkeys(column.map(show)))
    if not _numeric(column) or len(texts) < 3:
        if _numeric(column):
            texts.sort(key=float)
        last = max(1, len(texts) - 1)
        heights = [texts.index(show(value)) / last for value in column]
        few = texts if len(texts) <= _MOST_TICKS else []
        return heights, [(texts.index(text) / last, _short(text, 18)) for text in few]
    numbers = [math.log10(value) if logs else float(value) for value in column]
    low, high = min(numbers), max(numbers)
    width = (high - low) or 1.0
    ticks = sorted(set(zip(numbers, column.map(lambda value: f"{value:.4g}"), strict=True)))
    if len(ticks) > _MOST_TICKS:
        steps = np.linspace(low, high, 5)
        ticks = [(step, f"{10**step if logs else step:.3g}") for step in steps]
    heights = [(number - low) / width for number in numbers]
    return heights, [((number - low) / width, text) for number, text in ticks]


def _importance_bars(parts: pd.Series) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=list(100 * parts),
            y=[html.escape(str(name)) for name in parts.index],
            orientation="h",
            marker={"color": PALETTE[0]},
            hovertemplate="%{y}: %{x:.1f} % of the variance<extra></extra>",
        )
    )
    figure.update_xaxes(range=[0, 100], ticksuffix=" %")
    figure.update_yaxes(automargin=True, ticksuffix="  ")
    return _plain(figure, 70 + 30 * max(3, len(parts)))


def _plain(figure: go.Figure, height: int) -> go.Figure:
    """Leave no room for titles: a head above the figure and a caption say what they would."""
    plain_layout(figure, "", height)
    return figure.update_layout(
        margin={"l": 50, "r": 12, "t": 12, "b": 30},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _hover(row: Row, measure: Measure) -> str:
    seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    bits = "".join(f"<br>{m.title} {row.shown(m)}" for m in row.scores[0] if m.title == "bits")
    return f"<b>{html.escape(row.name)}</b><br>{row.shown(measure)}{seeds}{bits}"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _numeric(column: pd.Series) -> bool:
    return all(_is_number(value) for value in column)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not (isinstance(value, float) and math.isnan(value))
    )


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
