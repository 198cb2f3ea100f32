import math

import pytest

from crvq.report.claims.claim import (
    Verdict,
    common_verdict,
    finding_of_pairs,
    improvement,
    judge_gains,
    judge_pairs,
)
from crvq.report.claims.pair import Pair

NOISE = math.log(1.1)


def pair(ratio, error=0.0, name="a"):
    """Two settings whose perplexities stand as ``ratio`` to 1."""
    sides = ({"setting": f"{name} without"}, {"setting": f"{name} with"})
    return Pair(*sides, math.log(ratio), "wiki", (error, error))


@pytest.mark.parametrize(
    ("ratios", "claimed", "verdict"),
    [
        ([1.2], None, Verdict.HOLDS),
        ([1.05], None, Verdict.UNDECIDED),
        ([1 / 1.05], None, Verdict.UNDECIDED),
        ([1 / 1.2], None, Verdict.FAILS),
        ([1.2, 1 / 1.2], None, Verdict.UNDECIDED),
        ([1 / (1 - 0.389)], 0.389, Verdict.HOLDS),
        ([1 / (1 - 0.34)], 0.389, Verdict.HOLDS),  # within the noise of what is claimed
        ([1 / (1 - 0.30)], 0.389, Verdict.IN_PART),
        ([1 / 1.2], 0.389, Verdict.FAILS),
        ([math.inf], None, Verdict.HOLDS),
    ],
)
def test_verdicts_follow_from_ratios(ratios, claimed, verdict):
    gains = [math.log(ratio) for ratio in ratios]
    assert judge_gains(gains, NOISE, claimed) is verdict


def test_pairs_are_judged_by_their_own_noise():
    assert judge_pairs([pair(1.1, 0.05)]) is Verdict.UNDECIDED  # 0.095 against 0.141
    assert judge_pairs([pair(1.1, 0.03)]) is Verdict.HOLDS  # 0.095 against 0.085


def test_many_pairs_are_less_noisy():
    pairs = [pair(1.1, 0.05, name) for name in "abcd"]
    assert judge_pairs(pairs) is Verdict.HOLDS


def test_improvement_in_words():
    assert improvement([pair(80 / 60)]) == "25.0 % lower perplexity (noise 0.0 %)"
    assert improvement([pair(60 / 80)]) == "33.3 % higher perplexity (noise 0.0 %)"


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_change_as_large_as_the_noise_reads_as_large(ratio):
    error = math.log(2) / 2 / math.sqrt(2)
    change, noise = (
        part.split(" %")[0] for part in improvement([pair(ratio, error)]).split("noise ")
    )
    assert change == noise


def test_no_pairs_say_what_is_missing():
    assert finding_of_pairs([], "no records").measured == "no records"


H, P, F, U = Verdict.HOLDS, Verdict.IN_PART, Verdict.FAILS, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("verdicts", "common"),
    [([H, H], H), ([H, F], P), ([H, U], P), ([P, F], P), ([F, U], F), ([U, U], U), ([F], F)],
)
def test_several_verdicts(verdicts, common):
    assert common_verdict(verdicts) is common
