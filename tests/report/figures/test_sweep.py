"""What matters in a sweep, against sums of squares by hand."""

import itertools

import pandas as pd
import pytest

from crvq.report.figures.sweep import importance


def test_on_a_full_grid_additive_effects_share_the_variance():
    grid = list(itertools.product((0, 1, 2), (0, 1), (0, 1)))
    values = pd.DataFrame(grid, columns=["a", "b", "idle"])
    outcome = pd.Series([3.0 * a + 4.0 * b for a, b, _ in grid])
    parts = importance(values, outcome)
    # Variances of 3a over {0, 1, 2} and of 4b over {0, 1}: 6 and 4.
    assert dict(parts) == pytest.approx({"a": 0.6, "b": 0.4, "idle": 0.0})


def test_searched_numbers_are_compared_by_thirds():
    values = pd.DataFrame({"rate": [0.1 * n for n in range(12)], "name": list("abababababab")})
    outcome = pd.Series([float(n // 4) for n in range(12)])
    assert importance(values, outcome)["rate"] == pytest.approx(1.0)


def test_nothing_varies_and_nothing_matters():
    values = pd.DataFrame({"a": [1, 1], "b": [1, 2]})
    assert importance(values, pd.Series([5.0, 5.0])).empty
