"""Which stages of fine-tuning a run had, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINETUNE = "config.finetune."
NONE = "none"
NORMS = " (norms)"
CODES = " (PV)"
_STAGES = {"block": "block", "end_to_end": "end to end"}


def finetune_stage(settings: Mapping[str, Any]) -> str:
    """``none``, ``block``, ``end to end`` or ``block + end to end``; with `` (norms)`` behind it
    where norms alone are trained, with `` (PV)`` where codes change too.

    Args:
        settings: a flat configuration, as in the column ``settings`` of
            :func:`crvq.report.records.flat_record`.
    """
    asked = {
        key.removeprefix(FINETUNE).split(".")[0]
        for key, value in settings.items()
        if key.startswith(FINETUNE) and key.count(".") > 2 and value is not None
    }
    stage = " + ".join(name for key, name in _STAGES.items() if key in asked)
    if not stage:
        return NONE
    trained = settings.get(f"{FINETUNE}train")
    alone = isinstance(trained, (list, tuple)) and list(trained) == ["norms"]
    codes = any(f".{key}.codes." in name for key in asked for name in settings)
    return stage + (NORMS if alone else "") + (CODES if codes else "")
