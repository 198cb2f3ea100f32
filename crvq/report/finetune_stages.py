"""Which stages of fine-tuning a run had, told from its configuration."""

from __future__ import annotations

from typing import Any

FINETUNE = "config.finetune."
NONE = "none"
NORMS = " (norms)"
_STAGES = {"block": "block", "end_to_end": "end to end"}


def finetune_stage(row: dict[Any, Any]) -> str:
    """``none``, ``block``, ``end to end`` or ``block + end to end``; with `` (norms)`` behind it
    where norms alone are trained.

    Args:
        row: of a frame with ``config.*`` columns.
    """
    asked = {
        str(key).removeprefix(FINETUNE).split(".")[0]
        for key, value in row.items()
        if str(key).startswith(FINETUNE)
        and str(key).count(".") > 2
        and value is not None
        and value == value
    }
    stage = " + ".join(name for key, name in _STAGES.items() if key in asked)
    if not stage:
        return NONE
    trained = row.get(f"{FINETUNE}train")
    alone = isinstance(trained, (list, tuple)) and list(trained) == ["norms"]
    return stage + (NORMS if alone else "")
