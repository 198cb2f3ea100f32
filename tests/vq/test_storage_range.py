import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.vq.storage import (
    SMALLEST_HALF,
    StorageRangeError,
    clipped,
    to_float16,
    to_positive_float16,
)


@given(st.floats(1e-12, 1e6), st.sampled_from([1.0, -1.0]))
def test_nothing_grows_by_more_than_twice_and_only_the_largest_shrink_by_more(size, sign):
    stored = float(to_float16(torch.tensor(sign * size)))
    assert 0 <= sign * stored <= 2 * size * (1 + 1e-6)
    if 1e-4 < size < 65000:
        assert math.isclose(sign * stored, size, rel_tol=2.0**-11)
    if size < SMALLEST_HALF / 2:
        assert stored == 0


def test_steps_are_never_zero_and_clipped_numbers_are_counted():
    steps = to_positive_float16(torch.tensor([0.0, 1e-9, 1e-7, 0.5, 1e6]))
    assert steps.tolist() == [SMALLEST_HALF, SMALLEST_HALF, 2 * SMALLEST_HALF, 0.5, 65504.0]
    assert clipped(steps) == 1
    assert clipped(torch.tensor([-65504.0, 65472.0, 0.0])) == 1


@pytest.mark.parametrize("store", [to_float16, to_positive_float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(store, bad):
    with pytest.raises(StorageRangeError, match="a row's scale is not finite"):
        store(torch.tensor([1.0, bad]), "a row's scale")
