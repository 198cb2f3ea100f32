"""What critical channels and their extended codebooks bring, and cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from crvq.report.claims.claim import (
    Finding,
    Verdict,
    common_verdict,
    finding_of_pairs,
    improvement,
    judge_pairs,
    runs_of_pairs,
    untested,
)
from crvq.report.claims.evidence import PARAMS, Evidence, param
from crvq.report.claims.pair import Pair, Row, pairs_in_words
from crvq.report.claims.toys import LEAST_WEIGHTS

PAPER_RATIO = 0.02
PAPER_INDEX_BITS = 8
BITS_TOLERANCE = 0.005
SPEED_NOISE = 0.05
CLAIMED_SIZES = (125e6, 13e9)
_PARTS = ("codes", "codebooks")


def critical_pairs(evidence: Evidence, but: Iterable[str] = ()) -> list[Pair]:
    """CRVQ with λ = 2 % against the same without critical channels."""
    return evidence.pairs(
        (f"{PARAMS}critical_ratio", *but),
        lambda row: param(row, "critical_ratio") == 0,
        lambda row: _is_paper_ratio(row) and (param(row, "extended_codebooks") or 0) > 0,
    )


def critical_channels_help(evidence: Evidence) -> Finding:
    """Return all pairs with and without critical channels."""
    nothing = "no record with λ=0.02 has a twin with λ=0"
    return finding_of_pairs(critical_pairs(evidence), nothing)


def extra_bits_are_few(evidence: Evidence, claimed: float) -> Finding:
    """Bits of λ = 2 % beyond λ = 0 at the paper's layout; an exact count, no noise."""
    layout = {"group_size": 8, "codebook_bits": 8, "extended_bits": 8, "extended_codebooks": 3}
    pairs = [
        pair
        for pair in critical_pairs(evidence)
        if all(param(pair.with_, key) == value for key, value in layout.items())
    ]
    if not pairs:
        return untested("no records of the paper's layout (d=8, 1 + 3 codebooks of 8 bits)")
    pair = min(pairs, key=lambda pair: pair.bits)
    parts = {part: _part(pair.with_, part) - _part(pair.without, part) for part in _PARTS}
    verdict = Verdict.FAILS
    if pair.bits < claimed + BITS_TOLERANCE:
        verdict = Verdict.HOLDS
    elif parts["codes"] < claimed + BITS_TOLERANCE:
        verdict = Verdict.IN_PART
    measured = f"{pair.with_['model']}: {pair.bits:+.3f} bits, of these " + ", ".join(
        f"{part} {bits:+.3f}" for part, bits in parts.items()
    )
    return Finding(verdict, measured, runs_of_pairs([pair]))


def two_percent_suffice(evidence: Evidence) -> Finding:
    """Return whether more than 2 % still gains, and as much for its bits as the first 2 % did."""
    sweeps = evidence.groups(f"{PARAMS}critical_ratio")
    results = []
    for rows in sweeps:
        base = next((row for row in rows if param(row, "critical_ratio") == 0), None)
        own = next((row for row in rows if _is_paper_ratio(row)), None)
        larger = [row for row in rows if (param(row, "critical_ratio") or 0) > PAPER_RATIO]
        if base is None or own is None or not larger:
            continue
        first = evidence.compare(base, own)
        pairs = [pair for row in larger if (pair := evidence.compare(own, row)) is not None]
        if first is not None and pairs:
            results.append((first, max(pairs, key=lambda pair: pair.gain)))
    if not results:
        return untested("no sweep with λ=0, λ=0.02 and a larger λ")
    verdicts = []
    for first, more in results:
        helps = judge_pairs([first])
        beyond = judge_pairs([more])
        if helps is not Verdict.HOLDS:
            verdicts.append(Verdict.UNDECIDED if helps is Verdict.UNDECIDED else Verdict.FAILS)
        elif beyond is not Verdict.HOLDS:
            verdicts.append(Verdict.HOLDS)
        else:
            verdicts.append(Verdict.IN_PART if _dearer(more, first) else Verdict.FAILS)
    words = "; ".join(
        f"λ=0 → 0.02 {improvement([first])} for {first.bits:+.3f} bits, "
        f"0.02 → {param(more.with_, 'critical_ratio'):g} {improvement([more])} for "
        f"{more.bits:+.3f} more"
        for first, more in results
    )
    ids = runs_of_pairs(pair for both in results for pair in both)
    return Finding(common_verdict(verdicts), words, ids)


def _dearer(more: Pair, first: Pair) -> bool:
    """Return whether ``more`` gains less for each bit that it costs."""
    if more.bits <= 0 or first.bits <= 0:
        return more.gain < first.gain
    return more.gain / more.bits < first.gain / first.bits


def three_extended_are_best(evidence: Evidence) -> Finding:
    """Return whether any other number of extended codebooks beats three."""
    groups = evidence.groups(f"{PARAMS}extended_codebooks")
    best = []
    for rows in groups:
        three = next((row for row in rows if param(row, "extended_codebooks") == 3), None)
        others = [row for row in rows if param(row, "extended_codebooks") != 3]
        if three is None or len(others) < 2 or not _uses_ratio(three):
            continue
        pairs = [pair for row in others if (pair := evidence.compare(three, row)) is not None]
        best += [max(pairs, key=lambda pair: pair.gain)] if pairs else []
    if not best:
        return untested("no sweep of the number of extended codebooks with three and two others")
    better = judge_pairs(best)
    verdict = {Verdict.HOLDS: Verdict.FAILS, Verdict.FAILS: Verdict.HOLDS}.get(better, better)
    words = "; ".join(
        f"best other number {param(pair.with_, 'extended_codebooks'):g}: "
        f"{pairs_in_words([pair])[0]}, {improvement([pair])} at {pair.bits:+.3f} bits"
        for pair in best
    )
    return Finding(verdict, words, runs_of_pairs(best))


def more_beat_larger(evidence: Evidence) -> Finding:
    """More extended codebooks against larger ones, at equal index bits for a critical group."""
    keys = (f"{PARAMS}extended_codebooks", f"{PARAMS}extended_bits")
    pairs = []
    for rows in evidence.groups(*keys):
        for few in rows:
            for many in rows:
                counts = [param(row, "extended_codebooks") or 0 for row in (few, many)]
                bits = [param(row, "extended_bits") or 0 for row in (few, many)]
                equal = counts[0] * bits[0] == counts[1] * bits[1]
                if 0 < counts[0] < counts[1] and equal and _uses_ratio(few):
                    pair = evidence.compare(few, many)
                    pairs += [pair] if pair is not None else []
    nothing = "no two records with equal index bits in other numbers of extended codebooks"
    return finding_of_pairs(pairs, nothing)


def works_on_stronger_bases(evidence: Evidence) -> Finding:
    """Critical channels on base quantizers stronger than one of d=8 and 8 bits.

    Stronger is one with more bits of code per weight, or with longer indices at the same rate.
    """
    pairs = [pair for pair in critical_pairs(evidence) if _is_stronger_base(pair.with_)]
    nothing = (
        "no pair with and without critical channels on a base of more than one bit of code a "
        "weight, or of longer indices at one bit"
    )
    finding = finding_of_pairs(pairs, nothing)
    bases = ", ".join(dict.fromkeys(_base(pair.with_) for pair in pairs))
    return replace(finding, measured=f"{bases}: {finding.measured}") if pairs else finding


def _is_stronger_base(row: Row) -> bool:
    length, index = param(row, "group_size"), param(row, "codebook_bits")
    if not length or not index:
        return False
    return bool(index > length or (index == length and index > PAPER_INDEX_BITS))


def _base(row: Row) -> str:
    length, index = param(row, "group_size"), param(row, "codebook_bits")
    return f"{_count(index / length)} of code per weight (d={length:g}, indices of {index:g} bits)"


def works_across_models(evidence: Evidence) -> Finding:
    """Critical channels on every model that there are pairs of; at least two.

    Models below :data:`LEAST_WEIGHTS` do not count, and the claim only holds in full where the
    sizes reach from one end of :data:`CLAIMED_SIZES` to the other.
    """
    by_model: dict[str, list[Pair]] = {}
    sizes: dict[str, float] = {}
    for pair in critical_pairs(evidence):
        model, weights = str(pair.with_["model"]), _number(pair.with_.get("bits.all_weights"))
        if weights >= LEAST_WEIGHTS:
            by_model.setdefault(model, []).append(pair)
            sizes[model] = weights
    if len(by_model) < 2:
        known = ", ".join(f"{model} of {_size(size)}" for model, size in sizes.items()) or "none"
        return untested(
            "pairs with and without critical channels are needed of two models from "
            f"{_size(LEAST_WEIGHTS)} weights on; there are those of {known}"
        )
    ordered = sorted(by_model, key=lambda model: sizes[model])
    verdict = common_verdict([judge_pairs(by_model[model]) for model in ordered])
    smallest, largest = (sizes[ordered[end]] for end in (0, -1))
    spans = smallest <= CLAIMED_SIZES[0] * 1.1 and largest >= CLAIMED_SIZES[1] * 0.9
    if verdict is Verdict.HOLDS and not spans:
        verdict = Verdict.IN_PART
    words = "; ".join(
        f"{model} ({_size(sizes[model])}): {improvement(by_model[model])}" for model in ordered
    )
    ids = runs_of_pairs(pair for model in ordered for pair in by_model[model])
    return Finding(verdict, words, ids)


def as_fast_as_one_codebook(evidence: Evidence) -> Finding:
    """Decoding speed with critical channels against without; 5 % is noise."""
    speed = "speed.quantized.decode_tokens_per_second"
    pairs = [
        pair
        for pair in critical_pairs(evidence)
        if all(_number(row.get(speed)) > 0 for row in (pair.without, pair.with_))
    ]
    if not pairs:
        return untested("no record holds an inference speed")
    slower = [math.log(p.without[speed] / p.with_[speed]) for p in pairs]
    mean = sum(slower) / len(slower)
    verdict = Verdict.HOLDS if mean <= math.log1p(SPEED_NOISE) else Verdict.FAILS
    return Finding(verdict, f"{100 * math.expm1(mean):+.1f} % time a token", runs_of_pairs(pairs))


def _count(bits: float) -> str:
    return f"{bits:g} bit{'' if bits == 1 else 's'}"


def _size(weights: float) -> str:
    """``135M``, ``1.3B``."""
    return f"{weights / 1e9:.3g}B" if weights >= 1e9 else f"{weights / 1e6:.3g}M"


def _part(row: Row, part: str) -> float:
    return float(row[f"bits.{part}"] / row["bits.quantized_weights"])


def _uses_ratio(row: Row) -> bool:
    return (param(row, "critical_ratio") or 0) > 0


def _is_paper_ratio(row: Row) -> bool:
    return param(row, "critical_ratio") == PAPER_RATIO


def _number(value: object) -> float:
    return float(str(value)) if value is not None else math.nan
