"""Tables as files: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from crvq.files.atomic import write_text
from crvq.report.paper_table import PaperTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",  # noqa: RUF001
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",  # noqa: RUF001
    "Δ": r"$\Delta$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "·": r"$\cdot$",
    "ᵀ": r"$^\top$",
    "−": r"$-$",  # noqa: RUF001
    "\n": " ",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\n")
"""What a formula of a spreadsheet begins with."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")
_LONG_TEXT = 48
_MOST_ROWS = 45
"""What fits a page."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$])")


def to_markdown(table: PaperTable, links: bool = True) -> str:
    """Return title, a pipe table with numbers on the right, and notes.

    Args:
        table: what is written.
        links: whether cells link to files of the folder that tables are written to.
    """
    parts = [f"### {escape_markdown(table.title)}"]
    if table.frame.empty:
        parts.append(table.missing())
    else:
        rows = [[escape_markdown(cell) for cell in row] for row in table.cells()]
        for place, column in enumerate(table.shown):
            if column.link and links:
                for row, link in zip(rows, table.frame[column.link], strict=True):
                    row[place] = f"[{row[place]}]({link})"
        for place, text in reversed(table.sections().items()):
            if text:
                rows.insert(place, [f"**{escape_markdown(text)}**", *[""] * (len(rows[0]) - 1)])
        heads = [escape_markdown(column.head) for column in table.shown]
        cells = pd.DataFrame(rows, columns=heads)
        sides = ["left" if column.style == "text" else "right" for column in table.shown]
        parts.append(cells.to_markdown(index=False, disable_numparse=True, colalign=sides))
    return "\n\n".join([*parts, *map(escape_markdown, table.notes)]) + "\n"


def to_latex(table: PaperTable) -> str:
    r"""Return a ``table`` with ``booktabs`` rules; label ``tab:<name>``. For ``\input``.

    One that is longer than a page is a ``longtable``; others are made as small as the column.
    """
    if table.frame.empty:
        said = (f"{table.title}: {table.missing()}", *table.notes)
        return "".join(f"% {' '.join(line.split())}\n" for line in said)
    caption, label = escape_latex(table.title), f"tab:{table.name.replace('_', '-')}"
    cells = (
        pd.DataFrame(table.cells())
        .style.format(lambda cell: escape_latex(str(cell)))
        .hide(axis="index")
    )
    heads = [escape_latex(column.head) for column in table.shown]
    cells = cells.format_index(lambda place: heads[int(str(place))], axis="columns")
    form: dict[str, Any] = {"hrules": True, "column_format": "".join(_alignments(table))}
    notes = [rf"\par\smallskip{{\footnotesize {escape_latex(note)}}}" for note in table.notes]
    if len(table.frame) > _MOST_ROWS:
        text = cells.to_latex(environment="longtable", caption=caption, label=label, **form)
        lines = [r"% Needs \usepackage{array,booktabs,longtable}", r"{\footnotesize"]
        lines += [*_with_sections(table, text), "}", *notes]
    else:
        lines = [
            r"% Needs \usepackage{adjustbox,array,booktabs}",
            rf"\begin{{table}}\centering\footnotesize\caption{{{caption}}}\label{{{label}}}",
            r"\begin{adjustbox}{max width=\linewidth}",
            *_with_sections(table, cells.to_latex(**form)),
            r"\end{adjustbox}",
            *notes,
            r"\end{table}",
        ]
    return "\n".join([*lines, ""])


def to_csv(table: PaperTable) -> str:
    """Return unrounded values under the frame's own column names; nothing is left out.

    Spreadsheets run cells that begin like a formula, and records may hold any text: such texts get
    an apostrophe in front (OWASP, "CSV Injection"). Numbers stay as they are.
    """
    frame = table.raw().copy()
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].map(inert_cell)
    heads = {name: inert_cell(name) for name in frame}
    return frame.rename(columns=heads).to_csv(index=False, lineterminator="\n")


def inert_cell(value: object) -> object:
    """Return a text so that no spreadsheet takes it for a formula; any other value unchanged."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # an unquoted \r would end the row
    if not value.lstrip(" ").startswith(_FORMULA):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


def write_table(table: PaperTable, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.tex`` and ``.csv``, each whole or not at all."""
    texts = {".md": to_markdown(table), ".tex": to_latex(table), ".csv": to_csv(table)}
    paths = []
    for ending, text in texts.items():
        path = folder / f"{table.name}{ending}"
        write_text(path, text)
        paths.append(path)
    return paths


def write_tables(tables: Iterable[PaperTable], folder: Path) -> list[Path]:
    """Write all tables that have rows, or notes on why not; files of others are removed."""
    paths: list[Path] = []
    for table in tables:
        if table.notes or not table.frame.empty:
            paths += write_table(table, folder)
            continue
        for ending in (".md", ".tex", ".csv"):
            (folder / f"{table.name}{ending}").unlink(missing_ok=True)
    return paths


def escape_markdown(text: str) -> str:
    """``text`` so that Markdown and a pipe table show it letter by letter."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """``text`` so that LaTeX shows it letter by letter; Greek and arrows as maths."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _alignments(table: PaperTable) -> list[str]:
    """Numbers on the right, text on the left; columns of long text share the line's width."""
    columns = list(zip(*table.cells(), strict=True))
    long = [max(map(len, cells)) > _LONG_TEXT for cells in columns]
    wrapped = rf">{{\raggedright\arraybackslash}}p{{{0.6 / max(sum(long), 1):.2f}\linewidth}}"
    kinds = ["l" if column.style == "text" else "r" for column in table.shown]
    return [wrapped if is_long else kind for kind, is_long in zip(kinds, long, strict=True)]


def _with_sections(table: PaperTable, text: str) -> list[str]:
    """Return the lines of a tabular with a rule where the section's column changes."""
    lines = text.rstrip().split("\n")
    first = lines.index(r"\endlastfoot" if r"\endlastfoot" in lines else r"\midrule")
    for row, text in reversed(table.sections().items()):
        name = rf"\multicolumn{{{len(table.shown)}}}{{l}}{{\textit{{{escape_latex(text)}}}}} \\"
        added = ([r"\midrule"] if row else []) + ([name] if text else [])
        lines[first + 1 + row : first + 1 + row] = added
    return lines
