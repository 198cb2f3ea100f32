import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.data.overlap import RUN, assert_disjoint
from crvq.errors import ConfigError


def random_tokens(seed, rows, length, vocabulary=1000):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (rows, length), generator=generator)


def shared_by_brute_force(calibration, evaluation, run):
    known = {tuple(w[i : i + run]) for w in calibration for i in range(len(w) - run + 1)}
    runs = [tuple(w[i : i + run]) for w in evaluation for i in range(len(w) - run + 1)]
    return np.mean([r in known for r in runs])


@given(st.integers(0, 50), st.integers(8, 12), st.integers(8, 15))
def test_the_share_is_that_of_a_brute_force_search(seed, length, context):
    # So few kinds of tokens that runs of 8 recur by chance.
    calibration = random_tokens(seed, 40, length, vocabulary=2)
    evaluation = random_tokens(seed + 1000, 3, context, vocabulary=2)
    expected = shared_by_brute_force(calibration.tolist(), evaluation.tolist(), 8)
    if expected == 0:
        assert assert_disjoint(calibration, evaluation) == 0
    else:
        with pytest.raises(ConfigError, match=f"text: {expected:.1%} of"):
            assert_disjoint(calibration, evaluation)


def test_text_of_its_own_passes():
    assert assert_disjoint(random_tokens(0, 8, 256), random_tokens(1, 8, 256)) == 0


def test_one_window_at_another_offset_is_found_and_both_keys_are_named():
    calibration, evaluation = random_tokens(0, 8, 256), random_tokens(1, 8, 256)
    evaluation[5, 31 : 31 + 128] = calibration[3, 7 : 7 + 128]
    with pytest.raises(ConfigError, match=r"calibration and eval\.perplexity\.x .*window 5\)"):
        assert_disjoint(calibration, evaluation, evaluation_key="eval.perplexity.x")


def test_a_shared_phrase_is_not_shared_text():
    calibration, evaluation = random_tokens(0, 8, 256), random_tokens(1, 8, 256)
    evaluation[5, 31 : 31 + RUN - 1] = calibration[3, 7 : 7 + RUN - 1]
    assert assert_disjoint(calibration, evaluation) == 0


def test_a_little_boilerplate_in_a_long_text_is_reported_but_allowed():
    calibration, evaluation = random_tokens(0, 8, 256), random_tokens(1, 100, 256)
    evaluation[5, : RUN + 2] = calibration[3, : RUN + 2]
    share = assert_disjoint(calibration, evaluation)
    assert share == pytest.approx(3 / (100 * (256 - RUN + 1)))
