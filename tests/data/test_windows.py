import collections
import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from crvq.data.windows import calibration_windows, check_context, evaluation_windows
from crvq.errors import ConfigError


@given(
    st.integers(1, 200),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_evaluation_windows_are_slices_a_stride_apart(count, context, most, stride):
    assume(count >= context)
    tokens = torch.arange(count)
    windows = evaluation_windows(tokens, context, most, stride=stride)
    starts = range(0, count - context + 1, stride or context)
    expected = [tokens[i : i + context] for i in starts][:most]
    assert [w.tolist() for w in windows] == [w.tolist() for w in expected]


def test_a_text_too_short_for_one_window_names_both_lengths():
    with pytest.raises(ConfigError, match=r"eval\.perplexity\.x.* 7 tokens.* needs 8"):
        evaluation_windows(torch.arange(7), 8, key="eval.perplexity.x")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 30), st.integers(0, 5))
def test_calibration_windows_are_slices_that_never_overlap(samples, length, spare, seed):
    tokens = torch.arange(samples * length + spare)
    windows = calibration_windows(tokens, samples, length, seed)
    assert windows.shape == (samples, length)
    assert (windows.diff(dim=1) == 1).all()
    assert windows.unique().numel() == samples * length
    assert torch.equal(windows, calibration_windows(tokens, samples, length, seed))


def test_placements_are_drawn_as_often_as_the_docstring_says():
    """Two windows of two tokens in six: spare 2, so gaps are two draws of 0 to 2, sorted."""
    seen = collections.Counter()
    draws = 4000
    for seed in range(draws):
        starts = calibration_windows(torch.arange(6), 2, 2, seed)[:, 0]
        seen[tuple(starts.sort().values.tolist())] += 1
    expected = collections.Counter()
    for gaps in itertools.product(range(3), repeat=2):  # by hand, one draw after the other
        first, second = sorted(gaps)
        expected[first, second + 2] += 1 / 9
    assert seen.keys() == expected.keys()
    assert expected[0, 3] == 2 * expected[0, 2]  # windows that touch are half as likely
    for placement, share in expected.items():
        assert seen[placement] / draws == pytest.approx(share, abs=0.03), placement


def test_the_order_of_windows_is_random():
    first = [int(calibration_windows(torch.arange(4), 2, 2, seed)[0, 0]) for seed in range(400)]
    assert 150 < first.count(0) < 250


@pytest.mark.parametrize(
    ("count", "advice"), [(63, r"calibration\.samples=3"), (15, r"smaller calibration\.length")]
)
def test_too_little_calibration_text_is_refused_with_numbers(count, advice):
    with pytest.raises(ConfigError, match=f"{count} tokens.* 4 windows of 16 need 64.*{advice}"):
        calibration_windows(torch.arange(count), 4, 16, 0)


def test_context_up_to_the_limit_is_allowed():
    check_context(8, 8, "calibration.length")
    check_context(8, None, "calibration.length")
    with pytest.raises(ConfigError, match=r"calibration\.length=9 .* 8 tokens"):
        check_context(9, 8, "calibration.length")


def test_calibration_windows_with_bos_keep_their_length():
    tokens = torch.arange(100, 160)
    windows = calibration_windows(tokens, 5, 9, 0, bos=7)
    assert windows.shape == (5, 9)
    assert (windows[:, 0] == 7).all()
    assert torch.equal(windows[:, 1:], calibration_windows(tokens, 5, 8, 0))
    assert calibration_windows(tokens[:40], 5, 9, 0, bos=7).shape == (5, 9)
    with pytest.raises(ConfigError, match=r"39 tokens.* 5 windows of 8 need 40"):
        calibration_windows(tokens[:39], 5, 9, 0, bos=7)
