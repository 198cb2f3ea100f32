"""What a claim is, what we can find out about it, and the rule that turns ratios into verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crvq.report.claims.evidence import Evidence
from crvq.report.claims.pair import Pair, mean_noise, pairs_in_words


class Verdict(StrEnum):
    """What our records say of a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    FAILS = "does not hold"
    UNDECIDED = "within the noise"
    UNTESTED = "can't be tested here"


@dataclass(frozen=True)
class Finding:
    """What was measured, and what follows from it."""

    verdict: Verdict
    measured: str
    run_ids: tuple[str, ...] = ()
    effect: str = ""
    """The measured effect in a few words, for a table."""


@dataclass(frozen=True)
class Claim:
    """Something that the paper says or does, and how our records can answer it."""

    name: str
    text: str
    source: str
    confidence: str
    """That the paper says so: high, medium or low, as in ``published.csv``."""
    rule: str
    """In words, what ``check`` does."""
    check: Callable[[Evidence], Finding]


def untested(why: str) -> Finding:
    """No record answers the claim."""
    return Finding(Verdict.UNTESTED, why)


def judge_gains(gains: Sequence[float], noise: float, claimed: float | None = None) -> Verdict:
    """Return the verdict on a better perplexity, from one or more comparisons.

    Holds if the mean gain is above the noise of the mean, does not hold if as far below zero,
    and is within the noise between them. With a ``claimed`` size it only holds in part if
    the improvement is more than the noise short of it.

    Args:
        gains: of each comparison, ln(perplexity without / perplexity with); above 0 is better.
        noise: of the mean gain.
        claimed: claimed improvement as a fraction of perplexity without; 0.389 is 38.9 % lower.
    """
    mean = sum(gains) / len(gains)
    if mean < -noise:
        return Verdict.FAILS
    if mean <= noise:
        return Verdict.UNDECIDED
    short = claimed is not None and mean < -math.log1p(-claimed) - noise
    return Verdict.IN_PART if short else Verdict.HOLDS


def judge_pairs(pairs: Sequence[Pair], claimed: float | None = None) -> Verdict:
    """:func:`judge_gains` of comparisons of two settings, each with its own noise."""
    return judge_gains([pair.gain for pair in pairs], mean_noise(pairs), claimed)


def improvement(pairs: Sequence[Pair]) -> str:
    """Mean gain in words: ``6.5 % lower perplexity (noise 4.1 %)``."""
    gain = sum(pair.gain for pair in pairs) / len(pairs)
    side, sign = ("lower", -1) if gain > 0 else ("higher", 1)
    change, noise = (abs(math.expm1(sign * abs(log))) for log in (gain, mean_noise(pairs)))
    return f"{100 * change:.1f} % {side} perplexity (noise {100 * noise:.1f} %)"


def finding_of_pairs(pairs: Sequence[Pair], nothing: str, claimed: float | None = None) -> Finding:
    """Return the usual finding: comparisons of two settings that differ in one thing.

    Args:
        pairs: the comparisons; none gives ``can't be tested here``.
        nothing: what is missing when there are none.
        claimed: as for :func:`judge_gains`.
    """
    if not pairs:
        return untested(nothing)
    bits = sum(pair.bits for pair in pairs) / len(pairs)
    shown = "; ".join(pairs_in_words(pairs[:4]))
    more = f"; and {len(pairs) - 4} more" if len(pairs) > 4 else ""
    mean = f"{', mean' if len(pairs) > 1 else ','} {improvement(pairs)}"
    measured = f"{shown}{more}{mean} at {bits:+.3f} bits"
    return Finding(judge_pairs(pairs, claimed), measured, runs_of_pairs(pairs), improvement(pairs))


def runs_of_pairs(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """Ids of all runs behind some comparisons, once each."""
    return tuple(dict.fromkeys(run for pair in pairs for run in pair.run_ids))


def common_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """Return what several verdicts on one claim come to: the same, or *in part* if some hold."""
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if Verdict.HOLDS in found or Verdict.IN_PART in found:
        return Verdict.IN_PART
    return Verdict.FAILS if Verdict.FAILS in found else Verdict.UNDECIDED
