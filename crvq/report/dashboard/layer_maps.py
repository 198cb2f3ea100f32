"""Per-linear numbers of a run as matrices: block by kind of linear."""

from __future__ import annotations

from typing import Any

import pandas as pd

MEASURES = {
    "relative_loss": "relative loss",
    "bits": "bits per weight",
    "seconds": "seconds",
    "critical_channels": "critical channels",
    "loss": "loss",
    "rounds": "rounds",
    "code_entropy": "entropy of the codes (bits per weight)",
}
"""Columns of ``layers.csv`` that make a map, with their names; absent ones are left out."""
_DIGITS = 5


def layer_maps(layers: pd.DataFrame) -> dict[str, Any] | None:
    """Return the maps of one run; None if its table has no rows or lacks block and kind.

    Returns:
        ``blocks``: block numbers; ``kinds``: names of linears inside a block, in the order of
        the table; ``shapes``: by kind, ``out x in``; ``maps``: by measure, one row per kind and a
        column a block, numbers to five digits; None where there is no such linear or the value
        is not finite; ``notes``: ``[block, kind, note]``.
    """
    if layers.empty or not {"block", "kind"} <= set(layers.columns):
        return None
    blocks = sorted(int(block) for block in layers["block"].unique())
    kinds = [str(kind) for kind in dict.fromkeys(layers["kind"])]
    column = {block: index for index, block in enumerate(blocks)}
    row = {kind: index for index, kind in enumerate(kinds)}
    maps = {}
    for measure in (name for name in MEASURES if name in layers.columns):
        matrix: list[list[float | None]] = [[None] * len(blocks) for _ in kinds]
        numbers = pd.to_numeric(layers[measure], errors="coerce")
        for block, kind, value in zip(layers["block"], layers["kind"], numbers, strict=True):
            matrix[row[str(kind)]][column[int(block)]] = _rounded(value)
        if any(value is not None for line in matrix for value in line):
            maps[measure] = matrix
    return {
        "blocks": blocks,
        "kinds": kinds,
        "shapes": _shapes(layers),
        "maps": maps,
        "notes": _notes(layers),
    }


def _shapes(layers: pd.DataFrame) -> dict[str, str]:
    if not {"out_features", "in_features"} <= set(layers.columns):
        return {}
    first = layers.drop_duplicates("kind")
    columns = (first["kind"], first["out_features"], first["in_features"])
    return {str(kind): f"{out} x {in_}" for kind, out, in_ in zip(*columns, strict=True)}


def _notes(layers: pd.DataFrame) -> list[list[Any]]:
    if "notes" not in layers.columns:
        return []
    noted = layers[layers["notes"].fillna("").astype(str) != ""]
    columns = (noted["block"], noted["kind"], noted["notes"])
    return [[int(block), str(kind), str(note)] for block, kind, note in zip(*columns, strict=True)]


def _rounded(value: float) -> float | None:
    if pd.isna(value) or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.{_DIGITS}g}")
