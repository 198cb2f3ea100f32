"""What critical channels and their extended codebooks bring, and cost."""

from __future__ import annotations

import math
from collections.abc import Iterable

from crvq.report.claims.claim import (
    Finding,
    Verdict,
    common_verdict,
    finding_of_pairs,
    improvement,
    judge_gains,
    untested,
)
from crvq.report.claims.evidence import PARAMS, Evidence, param
from crvq.report.claims.pair import Pair, Row, pairs_in_words

PAPER_RATIO = 0.02
BITS_TOLERANCE = 0.005
SPEED_NOISE = 0.05
_PARTS = ("codes", "codebooks")


def critical_pairs(evidence: Evidence, but: Iterable[str] = ()) -> list[Pair]:
    """CRVQ with λ = 2 % against the same without critical channels."""
    return evidence.pairs(
        (f"{PARAMS}critical_ratio", *but),
        lambda row: param(row, "critical_ratio") == 0,
        lambda row: _is_paper_ratio(row) and (param(row, "extended_codebooks") or 0) > 0,
    )


def critical_channels_help(evidence: Evidence) -> Finding:
    """All pairs with and without critical channels."""
    nothing = "no record with λ=0.02 has a twin with λ=0"
    return finding_of_pairs(critical_pairs(evidence), evidence.noise, nothing)


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
    return Finding(verdict, measured, tuple(dict.fromkeys(pair.run_ids)))


def two_percent_suffice(evidence: Evidence) -> Finding:
    """Whether more than 2 % still gains, and as much for its bits as the first 2 % did."""
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
        helps = judge_gains([first.gain], evidence.noise)
        beyond = judge_gains([more.gain], evidence.noise)
        if helps is not Verdict.HOLDS:
            verdicts.append(Verdict.UNDECIDED if helps is Verdict.UNDECIDED else Verdict.FAILS)
        elif beyond is not Verdict.HOLDS:
            verdicts.append(Verdict.HOLDS)
        else:
            verdicts.append(Verdict.IN_PART if _dearer(more, first) else Verdict.FAILS)
    words = "; ".join(
        f"λ=0 → 0.02 {improvement([first.gain])} for {first.bits:+.3f} bits, "
        f"0.02 → {param(more.with_, 'critical_ratio'):g} {improvement([more.gain])} for "
        f"{more.bits:+.3f} more"
        for first, more in results
    )
    ids = [run for first, more in results for run in (*first.run_ids, *more.run_ids)]
    return Finding(common_verdict(verdicts), words, tuple(dict.fromkeys(ids)))


def _dearer(more: Pair, first: Pair) -> bool:
    """Whether ``more`` gains less for each bit that it costs."""
    if more.bits <= 0 or first.bits <= 0:
        return more.gain < first.gain
    return more.gain / more.bits < first.gain / first.bits


def three_extended_are_best(evidence: Evidence) -> Finding:
    """Whether any other number of extended codebooks beats three."""
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
    gains = [pair.gain for pair in best]
    better = judge_gains(gains, evidence.noise)
    verdict = {Verdict.HOLDS: Verdict.FAILS, Verdict.FAILS: Verdict.HOLDS}.get(better, better)
    words = "; ".join(
        f"best other number {param(pair.with_, 'extended_codebooks')}: "
        f"{pairs_in_words([pair])[0]}, {improvement([pair.gain])} at {pair.bits:+.3f} bits"
        for pair in best
    )
    ids = tuple(dict.fromkeys(run for pair in best for run in pair.run_ids))
    return Finding(verdict, words, ids)


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
    return finding_of_pairs(pairs, evidence.noise, nothing)


def works_on_stronger_bases(evidence: Evidence) -> Finding:
    """Critical channels on base codebooks of more than 8 bits, or on vectors of other lengths."""
    pairs = [
        pair
        for pair in critical_pairs(evidence)
        if (param(pair.with_, "codebook_bits") or 0) > 8 or param(pair.with_, "group_size") != 8
    ]
    nothing = "no pair with and without critical channels on a base other than d=8, 8 bits"
    return finding_of_pairs(pairs, evidence.noise, nothing)


def works_across_models(evidence: Evidence) -> Finding:
    """Critical channels on every model that there are pairs of; at least two."""
    by_model: dict[str, list[Pair]] = {}
    for pair in critical_pairs(evidence):
        by_model.setdefault(str(pair.with_["model"]), []).append(pair)
    if len(by_model) < 2:
        return untested(f"pairs with and without critical channels of {len(by_model)} model(s)")
    gains = {model: [pair.gain for pair in pairs] for model, pairs in by_model.items()}
    verdicts = [judge_gains(values, evidence.noise) for values in gains.values()]
    words = "; ".join(f"{model}: {improvement(values)}" for model, values in gains.items())
    ids = [run for pairs in by_model.values() for pair in pairs for run in pair.run_ids]
    return Finding(common_verdict(verdicts), words, tuple(dict.fromkeys(ids)))


def as_fast_as_one_codebook(evidence: Evidence) -> Finding:
    """Decoding speed with critical channels against without; 5 % is noise."""
    speed = "speed.tokens_per_second"
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
    ids = tuple(dict.fromkeys(run for pair in pairs for run in pair.run_ids))
    return Finding(verdict, f"{100 * math.expm1(mean):+.1f} % time a token", ids)


def _part(row: Row, part: str) -> float:
    return float(row[f"bits.{part}"] / row["bits.quantized_weights"])


def _uses_ratio(row: Row) -> bool:
    return (param(row, "critical_ratio") or 0) > 0


def _is_paper_ratio(row: Row) -> bool:
    return param(row, "critical_ratio") == PAPER_RATIO


def _number(value: object) -> float:
    return float(str(value)) if value is not None else math.nan
