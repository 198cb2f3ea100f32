"""A table of a paper: numbers in full, and how each column is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from crvq.report.number_format import Style, format_cell

STD = " std"
"""Suffix of the column that holds the standard deviation over seeds."""


@dataclass(frozen=True)
class Column:
    """One column: where its values lie in the frame, its head, and how they are written."""

    key: str
    head: str
    style: Style = "text"
    only_csv: bool = False
    """Provenance such as run ids, which printed tables leave out."""
    link: str = ""
    """The frame's column with what Markdown links each cell to."""


@dataclass(frozen=True, repr=False)
class PaperTable:
    """A frame with unrounded numbers, and all that is needed to print it.

    A column ``<key> std`` next to ``<key>`` holds the spread over seeds and is shown with it.
    """

    name: str
    """Stem of the files that it is written to."""
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
    section: str | None = None
    """A rule is drawn where this column's value changes."""
    section_rows: bool = False
    """Whether the section stands in a row of its own, not in a column."""
    made_by: str = ""
    """The command whose records fill the table; said when it is empty."""

    def __repr__(self) -> str:
        """Say in a line what it is: a stored notebook must not hold folders of the frame."""
        return f"{self.title}: {len(self.frame)} rows"

    @property
    def shown(self) -> tuple[Column, ...]:
        """Columns of the printed forms: provenance, and columns without a value, left out."""
        return tuple(
            column
            for column in self.columns
            if not column.only_csv
            and not (self.section_rows and column.key == self.section)
            and (column.key in self.frame and _has_value(self.frame[column.key]))
        )

    def cells(self) -> list[list[str]]:
        """Rows of formatted values, in the order of :attr:`shown`."""
        columns = self.shown
        return [
            [
                format_cell(column.style, row[column.key], row.get(column.key + STD))
                for column in columns
            ]
            for row in self.frame.to_dict("records")
        ]

    def sections(self) -> dict[int, str]:
        """Return by row where sections begin, with the text of a row of their own, if any.

        One section that is all of the table needs no row.
        """
        if self.section is None or self.frame.empty:
            return {}
        values = list(self.frame[self.section])
        starts = [n for n, value in enumerate(values) if n == 0 or value != values[n - 1]]
        said = self.section_rows and len(starts) > 1
        return {row: str(values[row]) if said else "" for row in starts}

    def missing(self) -> str:
        """Return what to say in place of an empty table."""
        how = f" Run `{self.made_by}` first." if self.made_by else ""
        return f"No records for this table yet.{how}"

    def raw(self) -> pd.DataFrame:
        """Return all columns unrounded, spreads included, in the order of ``columns``."""
        keys = [key for column in self.columns for key in (column.key, column.key + STD)]
        return self.frame[[key for key in keys if key in self.frame]]

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows."""
        from crvq.report.table_files import to_markdown

        return to_markdown(self, links=False)


def unique_notes(notes: Sequence[object]) -> tuple[str, ...]:
    """Notes once each, in order; missing ones left out."""
    kept = (str(note) for note in notes if isinstance(note, str) and note)
    return tuple(dict.fromkeys(kept))


def _has_value(values: pd.Series) -> bool:
    return bool(values.notna().any())
