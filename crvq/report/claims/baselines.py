"""CRVQ of about one bit against other methods below two."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crvq.report.claims.claim import Finding, Verdict, finding_of_pairs, judge_gains, untested
from crvq.report.claims.evidence import Evidence, param, uses_critical
from crvq.report.claims.pair import Row
from crvq.report.finetune_stages import FINETUNE
from crvq.report.finished_runs import CONFIG
from crvq.report.paper_table import STD
from crvq.report.zero_shot_columns import ACCURACY, AVERAGE, STDERR, average_labels

SUB_TWO_BITS = 2.0
ABOUT_ONE_BIT = 1.5
"""Bits below which a setting is *about one bit* here: small models pay for their codebooks."""
ACCURACY_NOISE = 0.05
"""Relative differences of zero-shot averages below this are none."""
_COMMON = (f"{CONFIG}model.", f"{CONFIG}calibration.", f"{CONFIG}device", f"{CONFIG}activation")


def beats_baselines(evidence: Evidence, claimed: float, as_published: bool) -> Finding:
    """The best CRVQ of about one bit against the best other method below two, a model at a time.

    Args:
        evidence: our records.
        claimed: improvement as a fraction of the baseline's perplexity.
        as_published: only CRVQ as the paper has it (:func:`_is_published`).
    """
    pairs = []
    for rows in _comparable(evidence):
        ours, others = _sides(rows)
        ours = [row for row in ours if not as_published or _is_published(row)]
        # The strongest baseline is the one that the best CRVQ gains least on.
        gains = [[evidence.compare(other, own) for other in others] for own in ours]
        worst = [
            min(
                (pair for pair in row if pair is not None), key=lambda pair: pair.gain, default=None
            )
            for row in gains
        ]
        best = max((p for p in worst if p is not None), key=lambda pair: pair.gain, default=None)
        pairs += [best] if best is not None else []
    nothing = (
        "no records of another method below 2 bits beside CRVQ of about one bit on the same model, "
        "calibration, fine-tuning and text"
    )
    return finding_of_pairs(pairs, evidence.noise, nothing, claimed)


def better_zero_shot(evidence: Evidence, claimed: float) -> Finding:
    """As :func:`beats_baselines`, on zero-shot averages; the mean relative gain.

    Noise is :data:`ACCURACY_NOISE`, or two standard errors of the baselines' averages if larger.
    """
    found = []
    for rows in _comparable(evidence):
        for name in average_labels(evidence.settings):
            scored = [row for row in rows if row[AVERAGE + name] == row[AVERAGE + name]]
            ours, others = _sides(scored)
            if ours and others:
                own, other = (
                    max(side, key=lambda r: float(r[AVERAGE + name])) for side in (ours, others)
                )
                gain = math.log(own[AVERAGE + name] / other[AVERAGE + name])
                found.append((gain, own, other, AVERAGE + name))
    if not found:
        return untested("no zero-shot scores of CRVQ and of another method below 2 bits")
    gains = [gain for gain, *_ in found]
    mean = math.expm1(sum(gains) / len(gains))
    noise = max(ACCURACY_NOISE, *(_relative_error(other, column) for *_, other, column in found))
    verdict = judge_gains(gains, noise)
    if verdict is Verdict.HOLDS and mean < claimed - noise:
        verdict = Verdict.IN_PART
    words = [
        f"{evidence.name(other)} → {evidence.name(own)}: "
        f"{100 * other[column]:.1f} → {100 * own[column]:.1f} %"
        for _, own, other, column in found
    ]
    measured = "; ".join(words) + f", {100 * mean:+.1f} % relative; noise {100 * noise:.0f} %"
    ids = [run for _, *sides, _ in found for row in sides[::-1] for run in row["run_ids"].split()]
    return Finding(verdict, measured, tuple(dict.fromkeys(ids)))


def matches(evidence: Evidence, method: str) -> Finding:
    """CRVQ no worse than another method by more than the noise."""
    pairs = []
    for rows in _comparable(evidence, finetune=False):
        ours = [row for row in rows if row["method"] == "crvq" and row["bits"] < ABOUT_ONE_BIT]
        theirs = [row for row in rows if row["method"] == method]
        found = [p for own in ours for other in theirs if (p := evidence.compare(other, own))]
        pairs += [max(found, key=lambda pair: pair.gain)] if found else []
    if not pairs:
        return untested(f"no record of {method}")
    finding = finding_of_pairs(pairs, evidence.noise, "")
    level = finding.verdict is not Verdict.FAILS
    return Finding(Verdict.HOLDS if level else Verdict.FAILS, finding.measured, finding.run_ids)


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
    """Whether channels are sorted by importance and each linear has codebooks of its own."""
    layout = {"group_size": 8, "reorder": "sorted", "codebook_scope": "linear"}
    return all(param(row, key) == value for key, value in layout.items())


def _sides(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """CRVQ with critical channels, of about one bit; other methods below two."""
    ours = [row for row in rows if row["method"] == "crvq" and uses_critical(row)]
    others = [row for row in rows if row["method"] != "crvq" and row["bits"] < SUB_TWO_BITS]
    return [row for row in ours if row["bits"] < ABOUT_ONE_BIT], others


def _comparable(evidence: Evidence, finetune: bool = True) -> list[list[Row]]:
    """Settings of any method on the same model, calibration and (if asked) fine-tuning."""
    prefixes = (*_COMMON, FINETUNE) if finetune else _COMMON
    return evidence.alike(lambda key: key.startswith(prefixes))
