"""Our records, arranged so that claims can ask for comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from crvq.report.claims.pair import Pair, Row
from crvq.report.claims.seed_noise import SeedNoise
from crvq.report.finished_runs import CONFIG, distinct, quantized_runs, setting_key
from crvq.report.layout_names import name_settings
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED, protocol_labels
from crvq.report.settings import over_seeds

PARAMS = f"{CONFIG}method_params."


class Evidence:
    """Finished runs as settings (mean over seeds), and comparisons of them.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        self.runs = distinct(quantized_runs(runs))
        self.settings = over_seeds(self.runs)
        self.noise = SeedNoise(self.runs)
        names = name_settings(self.settings)
        self._names = dict(zip(self._column("setting"), names, strict=True))

    def rows(self, method: str | None = None) -> list[Row]:
        """Settings, of one method or of all."""
        rows: list[Row] = self.settings.to_dict("records")
        return [row for row in rows if method is None or row["method"] == method]

    def name(self, row: Row) -> str:
        """Return the setting's short name."""
        return self._names[row["setting"]]

    def pairs(
        self,
        keys: Iterable[str],
        is_without: Callable[[Row], bool],
        is_with: Callable[[Row], bool],
    ) -> list[Pair]:
        """All pairs that are equal but for ``keys``, one of each side, with a shared protocol.

        Args:
            keys: configuration columns in which the two may differ.
            is_without: whether a setting is the first of a pair.
            is_with: whether it is the second.
        """
        but = tuple(keys)
        sides: dict[str, tuple[list[Row], list[Row]]] = {}
        for row in self.rows():
            first, second = sides.setdefault(setting_key(row["settings"], but), ([], []))
            if is_without(row):
                first.append(row)
            elif is_with(row):
                second.append(row)
        found = (
            self.compare(one, other)
            for first, second in sides.values()
            for one in first
            for other in second
        )
        return [pair for pair in found if pair is not None]

    def groups(self, *keys: str) -> list[list[Row]]:
        """Settings that differ in nothing but ``keys`` and have them; two or more a group."""
        found: dict[str, list[Row]] = {}
        for row in self.rows():
            if all(param(row, key.removeprefix(PARAMS)) is not None for key in keys):
                found.setdefault(setting_key(row["settings"], keys), []).append(row)
        return [rows for rows in found.values() if len(rows) > 1]

    def alike(self, counts: Callable[[str], bool]) -> list[list[Row]]:
        """Settings of any method, grouped by the values of the configuration keys that count."""
        found: dict[str, list[Row]] = {}
        for row in self.rows():
            kept = {key: value for key, value in row["settings"].items() if counts(key)}
            found.setdefault(setting_key(kept), []).append(row)
        return list(found.values())

    def compare(self, without: Row, with_: Row) -> Pair | None:
        """Two settings; None if no protocol is shared or no perplexity is a number."""
        gains = {
            label: _log(without[QUANTIZED + label]) - _log(with_[QUANTIZED + label])
            for label in protocol_labels(self.settings)
        }
        known = {label: gain for label, gain in gains.items() if not math.isnan(gain)}
        if not known:
            return None
        first = next(iter(known))
        return Pair(
            without,
            with_,
            sum(known.values()) / len(known),
            first,
            (self.noise.error(without, first), self.noise.error(with_, first)),
        )

    def damage(self, row: Row) -> float:
        """ln(perplexity / full precision's), mean over the protocols that the setting has."""
        labels = protocol_labels(self.settings)
        logs = [_log(row[QUANTIZED + name] / row[FULL_PRECISION + name]) for name in labels]
        known = [value for value in logs if not math.isnan(value)]
        return sum(known) / len(known) if known else math.inf

    def _column(self, name: str) -> list[Any]:
        return list(self.settings[name]) if name in self.settings else []


def param(row: Row, name: str) -> Any:  # noqa: ANN401
    """Return a method parameter of a setting; None if its method has none of that name.

    What a budget chose goes before what was asked, but for λ: that is what distinguishes pairs.
    """
    value, used = row["settings"].get(PARAMS + name), row["effective_values"].get(name)
    return used if name != "critical_ratio" and value is not None and used is not None else value


def uses_critical(row: Row) -> bool:
    """Return whether a setting has critical channels with codebooks of their own."""
    return (param(row, "critical_ratio") or 0) > 0 and (param(row, "extended_codebooks") or 0) > 0


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan
