import math

import pytest

from crvq.report.claims.claim import Verdict, common_verdict, improvement, judge_gains


@pytest.mark.parametrize(
    ("ratios", "claimed", "verdict"),
    [
        ([1.2], None, Verdict.HOLDS),
        ([1.05], None, Verdict.UNDECIDED),
        ([1 / 1.05], None, Verdict.UNDECIDED),
        ([1 / 1.2], None, Verdict.FAILS),
        ([1.06], None, Verdict.UNDECIDED),
        ([1.06] * 4, None, Verdict.HOLDS),  # the noise of a mean of four is half as large
        ([1 / 1.06] * 4, None, Verdict.FAILS),
        ([1.2, 1 / 1.2], None, Verdict.UNDECIDED),
        ([1 / (1 - 0.389)], 0.389, Verdict.HOLDS),
        ([1 / (1 - 0.34)], 0.389, Verdict.HOLDS),  # within the noise of what is claimed
        ([1 / (1 - 0.30)], 0.389, Verdict.IN_PART),
        ([1 / (1 - 0.34)] * 4, 0.389, Verdict.IN_PART),
        ([1 / 1.2], 0.389, Verdict.FAILS),
        ([math.inf], None, Verdict.HOLDS),
    ],
)
def test_verdicts_follow_from_ratios(ratios, claimed, verdict):
    gains = [math.log(ratio) for ratio in ratios]
    assert judge_gains(gains, 0.1, claimed) is verdict


def test_the_noise_is_a_part_of_perplexity():
    assert judge_gains([math.log(1.19)], 0.2) is Verdict.UNDECIDED
    assert judge_gains([math.log(1.21)], 0.2) is Verdict.HOLDS


def test_improvement_in_words():
    assert improvement([math.log(80 / 60)]) == "25.0 % lower perplexity"
    assert improvement([math.log(60 / 80)]) == "33.3 % higher perplexity"


H, P, F, U = Verdict.HOLDS, Verdict.IN_PART, Verdict.FAILS, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("verdicts", "common"),
    [([H, H], H), ([H, F], P), ([H, U], P), ([P, F], P), ([F, U], F), ([U, U], U), ([F], F)],
)
def test_several_verdicts(verdicts, common):
    assert common_verdict(verdicts) is common
