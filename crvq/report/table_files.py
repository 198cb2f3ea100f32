"""Tables as files: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from crvq.files.atomic import write_text
from crvq.report.paper_table import Column, PaperTable

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
_LONG_TEXT = 36
_LONG_HEAD = 24
_MOST_ROWS = 45
_MOST_LETTERS = 4000
"""What fits a page."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$])")


def to_markdown(table: PaperTable) -> str:
    """Title, a pipe table with numbers on the right, and notes."""
    lines = [f"### {escape_markdown(table.title)}", ""]
    if table.frame.empty:
        return "\n\n".join([lines[0], table.missing(), *map(escape_markdown, table.notes), ""])
    heads = [escape_markdown(column.head) for column in table.shown]
    rules = ["---" if column.style == "text" else "---:" for column in table.shown]
    rows = [[escape_markdown(cell) for cell in row] for row in table.cells()]
    lines += [f"| {' | '.join(row)} |" for row in (heads, rules, *rows)]
    for note in table.notes:
        lines += ["", escape_markdown(note)]
    return "\n".join([*lines, ""])


def to_latex(table: PaperTable) -> str:
    r"""Return a ``table`` with ``booktabs`` rules; label ``tab:<name>``. For ``\input``.

    A table wider than the line is shrunk to it (``graphicx``); one longer than a page becomes a
    ``longtable``.
    """
    if table.frame.empty:
        said = (f"{table.title}: {table.missing()}", *table.notes)
        return "".join(f"% {' '.join(line.split())}\n" for line in said)
    named = [
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
    ]
    head = [r"\toprule", _latex_row(map(_latex_head, table.shown)), r"\midrule"]
    rows = _latex_body(table)
    align = "".join(_alignments(table))
    notes = [rf"\par\smallskip{{\footnotesize {escape_latex(note)}}}" for note in table.notes]
    if len(rows) > _MOST_ROWS or sum(map(len, rows)) > _MOST_LETTERS:
        lines = [
            r"% Needs \usepackage{array,booktabs,longtable}",
            rf"\begin{{longtable}}{{{align}}}",
            *named,
            r"\\",
            *head,
            r"\endhead",
            *rows,
            r"\bottomrule",
            r"\end{longtable}",
            *notes,
        ]
    else:
        lines = [
            r"% Needs \usepackage{array,booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            *named,
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{align}}}",
            *head,
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
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
    wrapped = rf">{{\raggedright\arraybackslash}}p{{{0.48 / max(sum(long), 1):.2f}\linewidth}}"
    kinds = ["l" if column.style == "text" else "r" for column in table.shown]
    return [wrapped if is_long else kind for kind, is_long in zip(kinds, long, strict=True)]


def _latex_head(column: Column) -> str:
    """Return a long head in several lines, broken after commas and colons."""
    head = escape_latex(column.head)
    if len(column.head) <= _LONG_HEAD:
        return head
    side = "l" if column.style == "text" else "r"
    lines = re.split(r"(?<=[,:]) ", head)
    return rf"\shortstack[{side}]{{" + r"\\".join(lines) + "}"


def _latex_body(table: PaperTable) -> list[str]:
    sections = list(table.frame[table.section]) if table.section else []
    lines = []
    for number, row in enumerate(table.cells()):
        if number and sections and sections[number] != sections[number - 1]:
            lines.append(r"\midrule")
        lines.append(_latex_row(map(escape_latex, row)))
    return lines


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
