import math

import pytest

from crvq.report.claims.pair import Pair, mean_noise


def pair(without, with_, errors=(0.3, 0.4), gain=0.1):
    return Pair({"setting": without}, {"setting": with_}, gain, "wiki", errors)


def test_noise_is_two_standard_errors_of_the_difference():
    assert mean_noise([pair("a", "b")]) == pytest.approx(2 * 0.5)


def test_the_mean_of_independent_pairs_is_less_noisy():
    pairs = [pair(f"a{n}", f"b{n}") for n in range(4)]
    assert mean_noise(pairs) == pytest.approx(2 * 0.5 / math.sqrt(4))


def test_a_side_that_pairs_share_is_not_averaged_away():
    pairs = [pair("a", f"b{n}") for n in range(4)]
    assert mean_noise(pairs) == pytest.approx(2 * math.hypot(0.3, 0.4 / math.sqrt(4)))
