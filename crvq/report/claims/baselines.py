"""CRVQ of about one bit against other methods of no more bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from crvq.report.claims.claim import Finding, Verdict, finding_of_pairs, judge_gains, untested
from crvq.report.claims.evidence import Evidence, param, uses_critical
from crvq.report.claims.pair import Row
from crvq.report.finetune_stages import FINETUNE
from crvq.report.finished_runs import CONFIG
from crvq.report.paper_table import STD
from crvq.report.zero_shot_columns import ACCURACY, AVERAGE, STDERR, average_labels

MOST_BITS = 1.05
"""A baseline may have this many times CRVQ's own bits: half a bit more is another class."""
ABOUT_ONE_BIT = 1.5
"""Bits below which a setting is *about one bit* here: small models pay for their codebooks."""
ACCURACY_NOISE = 0.05
"""Relative differences of zero-shot averages below this are none."""
_COMMON = (f"{CONFIG}model.", f"{CONFIG}calibration.", f"{CONFIG}device", f"{CONFIG}activation")


def beats_baselines(evidence: Evidence, claimed: float, as_published: bool) -> Finding:
    """Return the best CRVQ of about one bit against the best other method of as few bits, by model.

    Args:
        evidence: our records.
        claimed: improvement as a fraction of the baseline's perplexity.
        as_published: only CRVQ as the paper has it (:func:`_is_published`).
    """
    pairs = []
    for rows in comparable(evidence):
        ours = [row for row in _ours(rows) if not as_published or _is_published(row)]
        # The strongest baseline is the one that CRVQ gains least on.
        strongest = [
            min(found, key=lambda pair: pair.gain)
            for own in ours
            if (found := [p for row in _rivals(own, rows) if (p := evidence.compare(row, own))])
        ]
        best = min(strongest, key=lambda pair: evidence.damage(pair.with_), default=None)
        pairs += [best] if best is not None else []
    nothing = (
        "no records of another method, of at most 5 % more bits, to compare with CRVQ of about one "
        "bit on the same model, calibration, fine-tuning and text"
    )
    return finding_of_pairs(pairs, nothing, claimed)


def better_zero_shot(evidence: Evidence, claimed: float) -> Finding:
    """As :func:`beats_baselines`, on zero-shot averages; the mean relative gain.

    Noise is :data:`ACCURACY_NOISE`, or two standard errors of the difference if larger.
    """
    found = []
    for rows in comparable(evidence):
        for name in average_labels(evidence.settings):
            column = AVERAGE + name
            scored = [row for row in rows if row[column] == row[column]]
            own = _highest([row for row in _ours(scored) if _rivals(row, scored)], column)
            if own is not None:
                other = max(_rivals(own, scored), key=lambda row: float(row[column]))
                found.append((math.log(own[column] / other[column]), own, other, column))
    if not found:
        return untested("no zero-shot scores of CRVQ and of another method of about as many bits")
    gains = [gain for gain, *_ in found]
    mean = math.expm1(sum(gains) / len(gains))
    noise = max(
        ACCURACY_NOISE,
        *(
            math.hypot(*(_relative_error(row, column) for row in sides))
            for _, *sides, column in found
        ),
    )
    verdict = judge_gains(gains, math.log1p(noise) / math.sqrt(len(gains)))
    if verdict is Verdict.HOLDS and mean < claimed - noise:
        verdict = Verdict.IN_PART
    words = [
        f"{evidence.name(other)} → {evidence.name(own)}: "
        f"{100 * other[column]:.1f} → {100 * own[column]:.1f} %"
        for _, own, other, column in found
    ]
    measured = "; ".join(words) + f", {100 * mean:+.1f} % relative; noise {100 * noise:.0f} %"
    ids = [run for _, *sides, _ in found for row in sides[::-1] for run in row["run_ids"].split()]
    effect = f"{100 * mean:+.1f} % relative (noise {100 * noise:.0f} %)"
    return Finding(verdict, measured, tuple(dict.fromkeys(ids)), effect)


def matches(evidence: Evidence, method: str) -> Finding:
    """CRVQ no worse than another method by more than the noise."""
    pairs = []
    for rows in comparable(evidence, finetune=False):
        ours = [row for row in rows if row["method"] == "crvq" and row["bits"] < ABOUT_ONE_BIT]
        found = [
            pair
            for own in ours
            for other in _rivals(own, rows)
            if other["method"] == method and (pair := evidence.compare(other, own))
        ]
        pairs += [max(found, key=lambda pair: pair.gain)] if found else []
    if not pairs:
        return untested(f"no record of {method}")
    finding = finding_of_pairs(pairs, "")
    level = finding.verdict is not Verdict.FAILS
    return replace(finding, verdict=Verdict.HOLDS if level else Verdict.FAILS)


def _relative_error(row: Row, column: str) -> float:
    """Two standard errors of a row's average over tasks, as a part of it; 0 if not known."""
    known = [
        (float(row[ACCURACY + task]), float(row[STDERR + task]))
        for task in (str(key).removeprefix(STDERR) for key in row if str(key).startswith(STDERR))
        if not task.endswith(STD) and row[ACCURACY + task] == row[ACCURACY + task]
    ]
    errors = [error for _, error in known if error == error]
    if not errors or row[column] <= 0:
        return 0.0
    return 2 * math.hypot(*errors) / len(known) / float(row[column])


def _is_published(row: Row) -> bool:
    """Return whether channels are sorted by importance and each linear has its own codebooks."""
    layout = {"group_size": 8, "reorder": "sorted", "codebook_scope": "linear"}
    return all(param(row, key) == value for key, value in layout.items())


def _ours(rows: Sequence[Row]) -> list[Row]:
    """CRVQ with critical channels, of about one bit."""
    return [
        row
        for row in rows
        if row["method"] == "crvq" and uses_critical(row) and row["bits"] < ABOUT_ONE_BIT
    ]


def _rivals(own: Row, rows: Sequence[Row]) -> list[Row]:
    """Other methods of no more bits than CRVQ has, but for :data:`MOST_BITS`."""
    most = own["bits"] * MOST_BITS
    return [row for row in rows if row["method"] != "crvq" and row["bits"] <= most]


def _highest(rows: Sequence[Row], column: str) -> Row | None:
    return max(rows, key=lambda row: float(row[column]), default=None)


def comparable(evidence: Evidence, finetune: bool = True) -> list[list[Row]]:
    """Settings of any method on the same model, calibration and (if asked) fine-tuning."""
    prefixes = (*_COMMON, FINETUNE) if finetune else _COMMON
    return evidence.alike(lambda key: key.startswith(prefixes))
