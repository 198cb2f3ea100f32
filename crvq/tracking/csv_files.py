"""The run's files of rows: ``layers.csv`` and ``finetune.csv``, written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from crvq.files.atomic import write_text
from crvq.finetune.curve import CurvePoint
from crvq.tracking.events import LayerRow
from crvq.tracking.record_schema import RecordError
from crvq.weights.bits import BIT_PARTS

LAYERS_FILE = "layers.csv"
_PREFIX = "bits_"
_MAY_BE_EMPTY = ("code_entropy", "published_bits")
_ROW = TypeAdapter(LayerRow)


def layer_columns(row: LayerRow) -> dict[str, Any]:
    """Return a row as flat columns; ``bit_parts`` become ``bits_codes``, ``bits_codebooks``, ..."""
    values = asdict(row)
    parts = values.pop("bit_parts")
    notes = values.pop("notes")
    values.update({_PREFIX + part: parts.pop(part, 0.0) for part in BIT_PARTS})
    values.update({_PREFIX + part: bits for part, bits in sorted(parts.items())})
    values["notes"] = notes
    return values


def write_layers(path: Path, rows: Iterable[LayerRow]) -> None:
    """Write all rows, whole or not at all; floats are written so that they read back equal."""
    columns = [layer_columns(row) for row in rows]
    names = list(dict.fromkeys(name for row in columns for name in row if name != "notes"))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names, "notes"], restval=0.0, lineterminator="\n")
    writer.writeheader()
    writer.writerows(columns)
    write_text(path, text.getvalue())


def read_layers(path: Path) -> list[LayerRow]:
    """Read rows back.

    Raises:
        RecordError: a column is missing or a value is not what it should be.
    """
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return [_row(values) for values in rows]
    except (ValueError, AttributeError, TypeError) as error:
        raise RecordError(
            f"{path} is damaged: {error}. Run the command that made the run again: it writes the "
            "file from the packed blocks."
        ) from error


def _row(values: dict[str, str]) -> LayerRow:
    parts = {
        name.removeprefix(_PREFIX): float(bits)
        for name, bits in values.items()
        if name.startswith(_PREFIX)
    }
    rest = {
        name: None if name in _MAY_BE_EMPTY and value == "" else value
        for name, value in values.items()
        if not name.startswith(_PREFIX)
    }
    return _ROW.validate_python({**rest, "bit_parts": parts})


FINETUNE_FILE = "finetune.csv"


def write_finetune(path: Path, points: Iterable[CurvePoint]) -> None:
    """Write all rows, whole or not at all; what there is none of is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(path, text.getvalue())
