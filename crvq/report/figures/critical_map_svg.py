"""The map of critical channels as SVG files for a document, in light and in dark.

``python -m crvq.report.figures.critical_map_svg RUN_FOLDER OUT_FOLDER`` writes
``critical_map_light.svg`` and ``critical_map_dark.svg``. They need no browser to be drawn, and no
script or font to be shown.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from crvq.errors import CrvqError
from crvq.files.atomic import write_text
from crvq.report.figures.critical_map import critical_channels, recurring_channels
from crvq.report.records import layer_table
from crvq.tracking.record_schema import read_record

KINDS = ("self_attn.q_proj", "mlp.gate_proj", "self_attn.o_proj", "mlp.down_proj")
"""Two kinds that read the residual stream, and the two that read inside a block."""

_WIDTH, _GAP, _LEFT, _TOP = 412, 36, 34, 62
_HEAD, _ROW, _FOOT = 40, 4, 26
_NAMED = 4


@dataclass(frozen=True)
class Theme:
    """Colours of one file."""

    text: str
    faint: str
    panel: str
    recurring: str
    other: str


THEMES = {
    "light": Theme("#1f2328", "#59636e", "#f3f5f8", "#d1480b", "#3f7cc4"),
    "dark": Theme("#f0f6fc", "#9198a1", "#1b2129", "#ff8c42", "#5b9be6"),
}


def critical_map_svg(
    layers: pd.DataFrame, title: str, theme: Theme, kinds: Sequence[str] = KINDS
) -> str:
    """Return an SVG with one panel per kind of linear layer, one line per block.

    Channels that are critical in at least half of the blocks have a colour of their own.

    Args:
        layers: rows of one run, of :func:`crvq.report.records.layer_table`.
        title: of the whole figure.
        theme: its colours. The ground is left transparent.
        kinds: of the panels, two to a row.

    Raises:
        CrvqError: the table has none of these kinds, or does not name its critical channels.
    """
    panels = [(kind, layers[layers["kind"] == kind]) for kind in kinds]
    panels = [(kind, rows) for kind, rows in panels if not rows.empty]
    if not panels or "critical_in_features" not in layers:
        raise CrvqError(
            f"no critical channels of {', '.join(kinds)} in this layers.csv; it has the kinds "
            f"{', '.join(sorted(layers['kind'].unique()))}"
        )
    blocks = max(len(rows) for _, rows in panels)
    height = _HEAD + _ROW * blocks + _FOOT
    total = _LEFT + 2 * _WIDTH + _GAP + 6, _TOP + height * ((len(panels) + 1) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" '
        f'width="{total[0]}" height="{total[1]}" role="img" '
        'font-family="-apple-system, Segoe UI, Helvetica, DejaVu Sans, sans-serif">',
        f"<title>{html.escape(title)}</title>",
        _text(_LEFT, 20, title, theme.text, 16, "600"),
        _legend(theme),
    ]
    for number, (kind, rows) in enumerate(panels):
        x = _LEFT + (number % 2) * (_WIDTH + _GAP)
        y = _TOP + (number // 2) * height
        parts += _panel(kind, rows, theme, x, y)
    return "\n".join([*parts, "</svg>\n"])


def _legend(theme: Theme) -> str:
    recurring = "critical in at least half of the blocks"
    return "\n".join(
        [
            _box(_LEFT, 33, 9, 9, theme.recurring),
            _text(_LEFT + 15, 42, recurring, theme.faint, 12),
            _box(_LEFT + 258, 33, 9, 9, theme.other),
            _text(_LEFT + 273, 42, "critical in fewer", theme.faint, 12),
        ]
    )


def _panel(kind: str, rows: pd.DataFrame, theme: Theme, x: float, y: float) -> list[str]:
    recurring = recurring_channels(rows)
    features = int(rows["in_features"].iloc[0])
    top, height = y + _HEAD, _ROW * len(rows)
    parts = [
        _text(x, y + 15, kind, theme.text, 13, "600"),
        _text(x, y + 32, _named(recurring), theme.faint, 12),
        _box(x, top, _WIDTH, height, theme.panel),
    ]
    step = _WIDTH / features
    width = max(step, 2.2)
    cells = {theme.other: "", theme.recurring: ""}
    for line, text in enumerate(rows.sort_values("block")["critical_in_features"]):
        for channel in critical_channels(text):
            left = min(x + channel * step, x + _WIDTH - width)
            colour = theme.recurring if channel in recurring else theme.other
            cells[colour] += f"M{left:.1f} {top + line * _ROW:g}h{width:.1f}v3.4h-{width:.1f}z"
    parts += [f'<path fill="{colour}" d="{path}"/>' for colour, path in cells.items() if path]
    if x == _LEFT:
        label = f'transform="rotate(-90 {x - 10} {top + height / 2:g})" text-anchor="middle"'
        parts.append(_text(x - 10, top + height / 2, "block", theme.faint, 11, more=label))
        parts.append(_text(x - 10, top + 8, "0", theme.faint, 10, more='text-anchor="middle"'))
        last = str(len(rows) - 1)
        parts.append(
            _text(x - 10, top + height, last, theme.faint, 10, more='text-anchor="middle"')
        )
    below = top + height + 13
    parts.append(_text(x, below, "0", theme.faint, 10))
    middle = x + _WIDTH / 2
    parts.append(_text(middle, below, "in feature", theme.faint, 11, more='text-anchor="middle"'))
    end = 'text-anchor="end"'
    parts.append(_text(x + _WIDTH, below, str(features - 1), theme.faint, 10, more=end))
    return parts


def _named(recurring: Sequence[int]) -> str:
    if not recurring:
        return "no channel is critical in half of the blocks"
    named = ", ".join(map(str, recurring[:_NAMED])) + (", …" if len(recurring) > _NAMED else "")
    return f"{len(recurring)} channels are critical in at least half: {named}"


def _text(
    x: float, y: float, text: str, fill: str, size: int, weight: str = "400", more: str = ""
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{fill}" font-size="{size}" font-weight="{weight}" {more}>'
        f"{html.escape(text)}</text>"
    )


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}"/>'
    )


def main() -> None:
    """Write the map of one run in every theme."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder with record.json and layers.csv")
    parser.add_argument("out", type=Path, help="folder for the SVG files")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="kinds of linear layers to draw")
    given = parser.parse_args()
    try:
        title = f"Critical channels of {read_record(given.run)['model']}, block by block"
        layers = layer_table(given.run)
        pictures = {
            name: critical_map_svg(layers, title, theme, given.kinds)
            for name, theme in THEMES.items()
        }
    except CrvqError as error:
        parser.error(str(error))
    for name, picture in pictures.items():
        write_text(given.out / f"critical_map_{name}.svg", picture)


if __name__ == "__main__":
    main()
