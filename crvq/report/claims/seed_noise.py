"""How far a perplexity moves from seed to seed, where a model is damaged about as much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from crvq.report.claims.pair import Row
from crvq.report.finetune_stages import finetune_stage
from crvq.report.perplexity_columns import FULL_PRECISION, QUANTIZED, protocol_labels

ASSUMED_SIGMA = 0.05
"""Of ln perplexity between seeds, where no setting was repeated."""
ALIKE = 2.0
"""Damage (perplexity over full precision's) within this factor counts as much the same."""
_LEAST_FREEDOM = 2
"""Repetitions beyond the first of each setting from which their spread is taken as known."""


@dataclass(frozen=True)
class _Repeated:
    """What the seeds of one setting showed on one protocol."""

    stage: str
    damage: float
    """ln(perplexity / full precision's), mean over seeds."""
    squares: float
    freedom: int


class SeedNoise:
    """σ of ln perplexity between seeds, by regime.

    A model at one bit moves 25 times as much as one at two bits after fine-tuning, so σ is pooled
    over settings of the same stage of fine-tuning and about the same damage (:data:`ALIKE`); over
    all settings where too few of these were repeated; and :data:`ASSUMED_SIGMA` where none was.

    Args:
        runs: quantized runs of :func:`crvq.report.finished_runs.finished_runs`.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._repeated: list[_Repeated] = []
        for label in protocol_labels(runs):
            known = runs[(runs[QUANTIZED + label] > 0) & (runs[QUANTIZED + label] < math.inf)]
            for setting, group in known.groupby("setting"):
                self._counts[str(setting), label] = len(group)
                if len(group) > 1:
                    self._repeated.append(_seeds_of(group, label))

    @property
    def pooled(self) -> float:
        """σ over all repeated settings, or the assumed one."""
        return _sigma(self._repeated) or ASSUMED_SIGMA

    def sigma(self, row: Row, label: str) -> float:
        """σ of a single run of a setting.

        Args:
            row: a setting, of :func:`crvq.report.settings.over_seeds`.
            label: the protocol.
        """
        stage, damage = finetune_stage(row["settings"]), _damage(row[QUANTIZED + label], row, label)
        regime = [
            one
            for one in self._repeated
            if one.stage == stage and abs(one.damage - damage) <= math.log(ALIKE)
        ]
        return _sigma(regime) or self.pooled

    def error(self, row: Row, label: str) -> float:
        """Standard error of the mean over the setting's runs."""
        runs = self._counts.get((row["setting"], label), 1)
        return self.sigma(row, label) / math.sqrt(runs)

    def in_words(self) -> str:
        """Return the rule, for the notes of a table."""
        fallback = (
            f"of all repeated settings ({self.pooled:.3f})"
            if _sigma(self._repeated)
            else f"an assumed {ASSUMED_SIGMA}, since too few settings were repeated"
        )
        return (
            "Noise of a comparison: two standard errors of the difference of ln perplexity, "
            "2·s·√(1/n + 1/m) with n and m runs (seeds) behind its two sides; s, the standard "
            "deviation between seeds, is that of repeated settings with the same fine-tuning "
            f"stages and a perplexity, relative to full precision's, within a factor of {ALIKE:g}, "
            f"or where these are too few, {fallback}."
        )


def _seeds_of(group: pd.DataFrame, label: str) -> _Repeated:
    first: dict[Any, Any] = group.iloc[0].to_dict()
    logs = [math.log(value) for value in group[QUANTIZED + label]]
    mean = sum(logs) / len(logs)
    return _Repeated(
        finetune_stage(first["settings"]),
        _damage(math.exp(mean), first, label),
        sum((value - mean) ** 2 for value in logs),
        len(logs) - 1,
    )


def _damage(perplexity: float, row: Row, label: str) -> float:
    ratio = perplexity / row[FULL_PRECISION + label]
    return math.log(ratio) if ratio > 0 else math.nan


def _sigma(repeated: list[_Repeated]) -> float | None:
    freedom = sum(one.freedom for one in repeated)
    if freedom < _LEAST_FREEDOM:
        return None
    return math.sqrt(sum(one.squares for one in repeated) / freedom)
