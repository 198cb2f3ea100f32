"""Factors of an inverse against dense inverses in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import triangular
from crvq.vq.triangular import inverse_factor, invert_upper_, permuted
from tests.vq.coded_examples import second_moment


def shuffled(size, seed=0):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 40), ridge=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 99))
def test_the_factor_is_the_inverses_upper_cholesky_factor(size, ridge, seed):
    matrix = second_moment(size, seed, 100.0)
    order = shuffled(size, seed)
    factor = inverse_factor(matrix, order, ridge, torch.float64)
    dense = matrix.double()[order][:, order] + ridge * torch.eye(size)
    wanted = torch.linalg.cholesky(torch.linalg.inv(dense), upper=True)
    torch.testing.assert_close(factor, wanted, rtol=1e-8, atol=1e-8)


def test_float32_is_close_when_the_ridge_bounds_the_condition_number():
    """Condition 1e8 before, 1e4 with the ridge: float32 keeps three digits of the factor."""
    matrix, order = second_moment(64, 1, 1e8), shuffled(64)
    single = inverse_factor(matrix, order, 1e-4, torch.float32)
    double = inverse_factor(matrix, order, 1e-4, torch.float64)
    assert single.dtype == torch.float32
    assert float((single.double() - double).norm() / double.norm()) < 2e-3


def test_sizes_above_a_leaf_and_a_reversal_tile(monkeypatch):
    monkeypatch.setattr(triangular, "_LEAF", 4)
    monkeypatch.setattr(triangular, "_REVERSED_AT_ONCE", 7)
    matrix, order = second_moment(37, 2, 50.0), shuffled(37)
    factor = inverse_factor(matrix, order, 0.0, torch.float64)
    dense = matrix.double()[order][:, order]
    torch.testing.assert_close(factor.T @ factor @ dense, torch.eye(37, dtype=torch.float64))
    assert torch.equal(factor, factor.triu())


def test_what_is_not_positive_definite_gives_none_and_stays_as_it_was():
    matrix = second_moment(5, 0) - 0.5 * torch.eye(5)
    before = matrix.clone()
    assert inverse_factor(matrix, torch.arange(5), 0.0, torch.float64) is None
    assert inverse_factor(matrix, torch.arange(5), 1.0, torch.float64) is not None
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("leaf", [1, 3, 100])
def test_upper_triangles_are_inverted_in_place(monkeypatch, leaf):
    monkeypatch.setattr(triangular, "_LEAF", leaf)
    triangle = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).double().triu()
    triangle.diagonal().abs_().add_(1)
    wanted = torch.linalg.inv(triangle)
    invert_upper_(triangle)
    torch.testing.assert_close(triangle, wanted)


@pytest.mark.parametrize("leaf", [2, 100])
def test_permuted_takes_rows_and_columns_in_order(monkeypatch, leaf):
    monkeypatch.setattr(triangular, "_LEAF", leaf)
    matrix, order = torch.arange(49.0).view(7, 7), shuffled(7)
    found = permuted(matrix, order, torch.float64)
    assert all(found[i, j] == matrix[order[i], order[j]] for i in range(7) for j in range(7))
