"""A run's zero-shot scores for the page, each with what chance says of it."""

from __future__ import annotations

from typing import Any

from crvq.report.dashboard.protocols import ProtocolNames
from crvq.report.dashboard.quality import as_number
from crvq.report.run_labels import Record
from crvq.report.zero_shot_table import chance_flag


def zero_shot_scores(record: Record, names: ProtocolNames) -> dict[str, dict[str, Any]]:
    """Tasks by label, as the record has them.

    Beside every metric's ``quantized`` and ``full_precision`` there is ``quantized_flag`` and
    ``full_precision_flag``, as :func:`crvq.report.zero_shot_table.chance_flag` gives them.
    """
    return {
        label: {
            **entry,
            "metrics": {
                metric: {**scores, **_flags(scores)}
                for metric, scores in (entry.get("metrics") or {}).items()
            },
        }
        for label, entry in names.tasks(record).items()
    }


def _flags(scores: dict[str, Any]) -> dict[str, str]:
    chance = as_number(scores.get("chance"))
    return {
        f"{which}_flag": chance_flag(
            as_number(scores.get(which)), as_number(scores.get(f"{which}_stderr")), chance
        )
        for which in ("quantized", "full_precision")
    }
