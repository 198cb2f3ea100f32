"""What a claim is, what we can find out about it, and the rule that turns ratios into verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crvq.report.claims.evidence import Evidence
from crvq.report.claims.pair import Pair, pairs_in_words


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
    """The verdict on a better perplexity, from one or more comparisons.

    Holds if the mean gain is above the noise of the mean, does not hold if as far below zero,
    and is within the noise between them. With a ``claimed`` size it only holds in part if
    the improvement is more than the noise short of it.

    Args:
        gains: of each comparison, ln(perplexity without / perplexity with); above 0 is better.
        noise: of one comparison, as a fraction of perplexity; 0.1 is 10 %.
        claimed: claimed improvement as a fraction of perplexity without; 0.389 is 38.9 % lower.
    """
    mean = sum(gains) / len(gains)
    threshold = math.log1p(noise) / math.sqrt(len(gains))
    if mean < -threshold:
        return Verdict.FAILS
    if mean <= threshold:
        return Verdict.UNDECIDED
    short = claimed is not None and mean < -math.log1p(-claimed) - threshold
    return Verdict.IN_PART if short else Verdict.HOLDS


def improvement(gains: Sequence[float]) -> str:
    """Mean gain in words: ``6.5 % lower perplexity``."""
    change = math.exp(-sum(gains) / len(gains)) - 1
    return f"{100 * abs(change):.1f} % {'lower' if change < 0 else 'higher'} perplexity"


def finding_of_pairs(
    pairs: Sequence[Pair], noise: float, nothing: str, claimed: float | None = None
) -> Finding:
    """The usual finding: comparisons of two settings that differ in one thing.

    Args:
        pairs: the comparisons; none gives ``can't be tested here``.
        noise: of one comparison, as a fraction of perplexity.
        nothing: what is missing when there are none.
        claimed: as for :func:`judge_gains`.
    """
    if not pairs:
        return untested(nothing)
    gains = [pair.gain for pair in pairs]
    bits = sum(pair.bits for pair in pairs) / len(pairs)
    shown = "; ".join(pairs_in_words(pairs[:4]))
    more = f"; and {len(pairs) - 4} more" if len(pairs) > 4 else ""
    mean = f", mean {improvement(gains)}" if len(pairs) > 1 else f", {improvement(gains)}"
    measured = f"{shown}{more}{mean} at {bits:+.3f} bits"
    ids = tuple(dict.fromkeys(run for pair in pairs for run in pair.run_ids))
    return Finding(judge_gains(gains, noise, claimed), measured, ids)


def common_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """What several verdicts on one claim come to: the same, or *in part* if some hold."""
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if Verdict.HOLDS in found or Verdict.IN_PART in found:
        return Verdict.IN_PART
    return Verdict.FAILS if Verdict.FAILS in found else Verdict.UNDECIDED
