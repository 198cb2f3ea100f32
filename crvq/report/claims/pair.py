"""Two settings that differ in one thing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from crvq.report.layout_names import name_settings
from crvq.report.number_format import perplexity
from crvq.report.perplexity_columns import QUANTIZED

Row = dict[Any, Any]
"""A row of :func:`crvq.report.settings.over_seeds`."""


@dataclass(frozen=True)
class Pair:
    """A comparison of two settings."""

    without: Row
    with_: Row
    gain: float
    """ln(perplexity without / perplexity with), mean over the shared protocols."""
    protocol: str
    """The first protocol that both were measured on."""
    errors: tuple[float, float]
    """Standard error of ln perplexity of either side."""

    @property
    def bits(self) -> float:
        """Bits per weight that the second costs beyond the first."""
        return float(self.with_["bits"] - self.without["bits"])

    @property
    def run_ids(self) -> list[str]:
        """All runs behind the two."""
        return [*str(self.without["run_ids"]).split(), *str(self.with_["run_ids"]).split()]


def mean_noise(pairs: Sequence[Pair]) -> float:
    """Two standard errors of the mean gain, in ln perplexity.

    A setting that stands in several pairs brings its error into all of them, so shares in the
    mean are added up by setting before they are squared.
    """
    shares: dict[tuple[str, float], float] = defaultdict(float)
    for pair in pairs:
        for row, error, sign in zip((pair.without, pair.with_), pair.errors, (-1, 1), strict=True):
            shares[row["setting"], error] += sign / len(pairs)
    return 2 * math.sqrt(sum((share * error) ** 2 for (_, error), share in shares.items()))


def pairs_in_words(pairs: Sequence[Pair]) -> list[str]:
    """``CRVQ 1x8 g8 → CRVQ 1x8 g8 + 3x8, λ=0.02: 1,179 → 1,103`` for each pair.

    Names are as long as distinguishes the first sides of these pairs, and the second sides; a pair
    whose sides have the same name is named once. The model stands before them where there are
    several.
    """
    several = len({pair.with_["model"] for pair in pairs}) > 1
    sides = (_names([p.without for p in pairs]), _names([p.with_ for p in pairs]))
    words = []
    for pair, *named in zip(pairs, *sides, strict=True):
        rows = (pair.without, pair.with_)
        first, second = (perplexity(row[QUANTIZED + pair.protocol]) for row in rows)
        model = f"{pair.with_['model']}, " if several else ""
        words.append(f"{model}{' → '.join(dict.fromkeys(named))}: {first} → {second}")
    return words


def _names(rows: Sequence[Row]) -> list[str]:
    unique = {row["setting"]: row for row in rows}
    names = dict(zip(unique, name_settings(pd.DataFrame(unique.values())), strict=True))
    return [names[row["setting"]] for row in rows]
