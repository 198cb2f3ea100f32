"""``finetune.csv``: the loss curves of a run's fine-tuning, one row per validation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from crvq.files.atomic import write_text
from crvq.finetune.curve import CurvePoint

FINETUNE_FILE = "finetune.csv"


def write_finetune(path: Path, points: Iterable[CurvePoint]) -> None:
    """Write all rows, whole or not at all; what there is none of is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(path, text.getvalue())
