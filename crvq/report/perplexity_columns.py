"""Perplexities by protocol: numbers of different texts or contexts never share a column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from crvq.report.protocols import WHOLE_SAMPLE, Protocol, protocol_names, protocol_of

QUANTIZED = "perplexity: "
"""Prefix of columns with the quantized model's perplexity; the protocol's label follows."""
FULL_PRECISION = "full precision: "
_FIRST = re.compile(r"\bfirst \d+ windows\b")
_COUNT_DRAWN = re.compile(r"\b(\d+) drawn windows\b")
_RESULT = re.compile(r"perplexity\.(?P<dataset>.+)\.tokens")
_TEXT = "config.eval.perplexity."
_SCORES = ("quantized", "full_precision")


def add_perplexities(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with two columns for every protocol, quantized and full precision.

    Args:
        runs: flat records, as :func:`crvq.report.records.load_records` gives them.
    """
    rows = runs.to_dict("records")
    results = [_results(row) for row in rows]
    protocols = list(dict.fromkeys(protocol for found in results for protocol in found))
    labels = protocol_names(protocols)
    values: dict[str, list[float]] = {}
    for protocol in protocols:
        pairs = [found.get(protocol, (float("nan"), float("nan"))) for found in results]
        values[QUANTIZED + labels[protocol]] = [pair[0] for pair in pairs]
        values[FULL_PRECISION + labels[protocol]] = [pair[1] for pair in pairs]
    return pd.concat([runs, pd.DataFrame(values, index=runs.index)], axis=1)


def protocol_labels(runs: pd.DataFrame) -> list[str]:
    """Labels of all protocols that ``runs`` has columns for."""
    columns = (str(column) for column in runs.columns)
    return [
        column.removeprefix(QUANTIZED)
        for column in columns
        if column.startswith(QUANTIZED) and not column.endswith(" std")
    ]


def is_partial(label: str) -> bool:
    """Return whether a protocol, by its label, reads less of the text than papers do."""
    drawn = _COUNT_DRAWN.search(label)
    return bool(_FIRST.search(label)) or (drawn is not None and int(drawn[1]) < WHOLE_SAMPLE)


def protocols_by_settings(settings: pd.DataFrame) -> dict[str, int]:
    """Labels of the protocols with how many settings have a perplexity there, most first."""
    counts = {
        label: int(settings[QUANTIZED + label].notna().sum()) for label in protocol_labels(settings)
    }
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _results(row: Mapping[Any, Any]) -> dict[Protocol, tuple[float, float]]:
    found = {}
    names = [_RESULT.fullmatch(str(key)) for key in row]
    for dataset in [match["dataset"] for match in names if match is not None]:
        entry = _section(row, f"perplexity.{dataset}.")
        if entry.get("tokens") is None:
            continue
        protocol = protocol_of(
            dataset, entry, _section(row.get("settings") or {}, f"{_TEXT}{dataset}.")
        )
        values = [float(entry[name]) if name in entry else float("nan") for name in _SCORES]
        found[protocol] = (values[0], values[1])
    return found


def _section(row: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Return a section of a flat record, without what this row lacks."""
    section: dict[str, Any] = {}
    for key, value in row.items():
        if not str(key).startswith(prefix) or _is_missing(value):
            continue
        *parents, last = str(key).removeprefix(prefix).split(".")
        inner = section
        for parent in parents:
            inner = inner.setdefault(parent, {})
        whole = isinstance(value, float) and value.is_integer() and last not in _SCORES
        inner[last] = int(value) if whole else value
    return section


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and pd.isna(value))
