"""Perplexities by protocol: numbers of different texts or contexts never share a column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

QUANTIZED = "perplexity: "
"""Prefix of columns with the quantized model's perplexity; the protocol's label follows."""
FULL_PRECISION = "full precision: "
WHOLE_SAMPLE = 256
"""Windows that papers draw from texts too long to read (C4); fewer are a part of their protocol."""
_FIRST = re.compile(r"\bfirst \d+ windows\b")
_COUNT_DRAWN = re.compile(r"\b(\d+) drawn windows\b")
_DRAWN = re.compile(r"\b(\d+) windows drawn with seed ")
_RESULT = re.compile(r"perplexity\.(?P<dataset>.+)\.tokens")


@dataclass(frozen=True)
class Protocol:
    """What a perplexity was measured on."""

    dataset: str
    context: int
    tokens: int
    windows: int | None
    """The cap on windows; None if the whole text was read."""
    described: str | None

    def label(self, detail: int = 0) -> str:
        """``wikitext2, 2048``; with the cap or the number of drawn windows, if any.


        With more ``detail`` the rest: first how windows were taken, then the number of tokens,
        then all that is known.
        """
        parts = [self.dataset, str(self.context)]
        if self.windows is not None:
            parts.append(f"first {self.windows} windows")
        described = str(self.described)
        drawn = _DRAWN.search(described)  # of these there is no end, so no cap either
        if drawn is not None:
            parts.append(f"{drawn[1]} drawn windows")
        if detail in {1, 2}:
            parts.append(described.split("; ")[-1])
        if detail > 1:
            parts.append(f"{self.tokens:,} tokens")
        if detail > 2:
            parts.append(described)
        return ", ".join(parts)


def add_perplexities(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with two columns for every protocol, quantized and full precision.

    Args:
        runs: flat records, as :func:`crvq.report.records.load_records` gives them.
    """
    rows = runs.to_dict("records")
    results = [_results(row) for row in rows]
    protocols = list(dict.fromkeys(protocol for found in results for protocol in found))
    labels = _labels(protocols)
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
    for key in row:
        match = _RESULT.fullmatch(str(key))
        if match is None or pd.isna(row[key]):
            continue
        dataset = match["dataset"]
        values = {
            name: row.get(f"perplexity.{dataset}.{name}")
            for name in ("context", "tokens", "windows", "windows_available", "protocol")
        }
        windows, available = _integer(values["windows"]), _integer(values["windows_available"])
        capped = windows is not None and available is not None and available > windows
        protocol = Protocol(
            dataset,
            _integer(values["context"]) or 0,
            _integer(values["tokens"]) or 0,
            windows if capped else None,
            values["protocol"] if isinstance(values["protocol"], str) else None,
        )
        found[protocol] = (
            _number(row.get(f"perplexity.{dataset}.quantized")),
            _number(row.get(f"perplexity.{dataset}.full_precision")),
        )
    return found


def _labels(protocols: list[Protocol]) -> dict[Protocol, str]:
    """Return one label each, as short as it can be without two being equal."""
    labels = {}
    for protocol in protocols:
        for detail in range(4):
            alike = [other for other in protocols if other.label(detail) == protocol.label(detail)]
            labels[protocol] = protocol.label(detail)
            if len(alike) == 1:
                break
    return labels


def _number(value: object) -> float:
    return float("nan") if value is None else float(str(value))


def _integer(value: object) -> int | None:
    number = _number(value)
    return None if pd.isna(number) else int(number)
