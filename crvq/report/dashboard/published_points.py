"""Published perplexities as points for the Pareto chart, each with where it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from crvq.report.published import published_path, published_perplexities, read_published

_HIGHEST_BITS = 4.5


def published_points(results_dir: Path) -> list[dict[str, Any]]:
    """Points of ``published.csv`` that have bits and a perplexity.

    Bits above 4.5, where all methods agree, are left out, and so are rows without a number.

    Args:
        results_dir: may hold ``published.csv``; without it there are no points.

    Returns:
        ``model``, ``method``, ``bits``, ``perplexity``, ``relative`` (in parts of full
        precision's, or NaN), ``dataset``, ``context`` (as its source states it), ``source``,
        ``where`` (its address), ``note`` and ``confidence`` of each.

    Raises:
        PublishedError: the file cannot be read.
    """
    if not published_path(results_dir).exists():
        return []
    table = published_perplexities(read_published(results_dir))
    table = table[table["bits"].between(0, _HIGHEST_BITS, inclusive="right")]
    return [_point(row) for _, row in table.iterrows()]


def _point(row: pd.Series) -> dict[str, Any]:
    names = {"context": "context_stated"}
    texts = ("model", "method", "dataset", "context", "source", "where", "note", "confidence")
    point: dict[str, Any] = {name: str(row[names.get(name, name)]) for name in texts}
    numbers = {"bits": row["bits"], "perplexity": row["value"], "relative": row["relative"]}
    return {**point, **{name: float(value) for name, value in numbers.items()}}
