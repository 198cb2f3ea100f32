"""How a run's fine-tuning is recorded: ``finetune.csv`` and a section of the run record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from crvq.files.atomic import write_text
from crvq.finetune.curve import CurvePoint, TrainingSummary

FINETUNE_FILE = "finetune.csv"
"""Loss curves, one row per validation."""


def write_finetune(path: Path, points: Iterable[CurvePoint]) -> None:
    """Write all rows, whole or not at all; what there is none of is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(path, text.getvalue())


def blocks_section(summaries: Sequence[TrainingSummary]) -> dict[str, Any]:
    """Return the trainings of all blocks in a few numbers; losses are means over blocks."""
    return {
        "blocks": len(summaries),
        "unchanged_blocks": sum(one.best_step == 0 for one in summaries),
        "steps": sum(one.steps for one in summaries),
        "trained_values": sum(one.trained_values for one in summaries),
        "first_loss": fmean(one.first_loss for one in summaries),
        "best_loss": fmean(one.best_loss for one in summaries),
        "skipped": sum(one.skipped for one in summaries),
        "stopped": {
            reason: sum(one.stopped == reason for one in summaries)
            for reason in sorted({one.stopped for one in summaries})
        },
        "seconds": sum(one.seconds for one in summaries),
    }


def model_section(summary: TrainingSummary) -> dict[str, Any]:
    """Return the training of the whole model."""
    return asdict(summary)
