"""What a run record says of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from crvq.finetune.curve import TrainingSummary


def blocks_section(summaries: Sequence[TrainingSummary]) -> dict[str, Any]:
    """The trainings of all blocks in a few numbers; losses are means over blocks."""
    changed = [one.changed_codes for one in summaries if one.changed_codes is not None]
    codes = {"changed_codes": fmean(changed)} if changed else {}
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
        **codes,
    }


def model_section(summary: TrainingSummary) -> dict[str, Any]:
    """The training of the whole model."""
    section = asdict(summary)
    if summary.changed_codes is None:
        section.pop("changed_codes")
    return section
