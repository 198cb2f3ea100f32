"""Which of two rival methods is better at as many bits, all counted: orders that papers report."""

from __future__ import annotations

import math

from crvq.report.claims.baselines import comparable
from crvq.report.claims.claim import Finding, finding_of_pairs
from crvq.report.claims.evidence import Evidence

ALIKE = 1.15
"""The better method may have this many times the other's bits: budgets are met to 20 %."""


def beats(evidence: Evidence, better: str, worse: str, least: float, most: float) -> Finding:
    """Each setting of one method against the nearest in bits of another, by model.

    Only settings on the same model, calibration and fine-tuning are compared.

    Args:
        evidence: our records.
        better: the method that a paper finds better.
        worse: the other one.
        least: bits that the other one has at least, everything counted.
        most: bits that it has at most.
    """
    pairs = []
    for rows in comparable(evidence):
        others = [row for row in rows if row["method"] == worse and least <= row["bits"] <= most]
        for own in (row for row in rows if row["method"] == better):
            rivals = [row for row in others if own["bits"] <= ALIKE * row["bits"]]
            known = [pair for row in rivals if (pair := evidence.compare(row, own)) is not None]
            if known:
                near = min(known, key=lambda pair: _distance(pair.without["bits"], own["bits"]))
                pairs.append(near)
    nothing = (
        f"no records of {better} and of {worse} of as many bits on the same model, calibration, "
        "fine-tuning and text"
    )
    return finding_of_pairs(pairs, nothing)


def _distance(one: float, other: float) -> float:
    return abs(math.log(one / other))
