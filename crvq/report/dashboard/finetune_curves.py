"""``finetune.csv`` as curves: one line per stage and block."""

from __future__ import annotations

from typing import Any

import pandas as pd

_WHOLE_MODEL = -1
_COLUMNS = {"stage", "block", "step", "train_loss", "validation_loss"}


def finetune_curves(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Curves of one run, in the order of the file.

    Args:
        table: rows of ``finetune.csv`` (:class:`crvq.finetune.curve.CurvePoint`).

    Returns:
        One entry for each stage and block: ``stage``, ``block`` (None for the whole model),
        ``step``, ``train`` and ``validation`` (each as long as ``step``; None where nothing
        was measured or a loss is not finite). Empty if the table lacks a column.
    """
    if table.empty or not set(table.columns) >= _COLUMNS:
        return []
    numbers = pd.to_numeric(table["block"], errors="coerce").fillna(_WHOLE_MODEL).astype(int)
    known = table.assign(block=numbers)
    return [
        {
            "stage": str(rows["stage"].iloc[0]),
            "block": None if rows["block"].iloc[0] == _WHOLE_MODEL else int(rows["block"].iloc[0]),
            "step": _numbers(rows["step"]),
            "train": _numbers(rows["train_loss"]),
            "validation": _numbers(rows["validation_loss"]),
        }
        for _, rows in known.groupby(["stage", "block"], sort=False, dropna=False)
    ]


def _numbers(column: pd.Series) -> list[float | None]:
    numbers = pd.to_numeric(column, errors="coerce")
    finite = numbers.abs() < float("inf")
    return [
        float(f"{value:.6g}") if good else None for value, good in zip(numbers, finite, strict=True)
    ]
