"""Hessian: dead channels, damping, and the algebra of its factors."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from crvq.vq.hessian import Hessian, HessianError
from tests.vq.coded_examples import second_moment


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    h = second_moment(4, 0)
    h[1, 2] = h[2, 1] = bad
    with pytest.raises(HessianError, match="NaN or infinity"):
        Hessian(h)


def test_what_no_damping_mends_is_refused():
    h = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    h[0, 1] = h[1, 0] = 5.0
    with pytest.raises(HessianError, match="not positive definite"):
        _ = Hessian(h).inv_diag_weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_given_matrix_is_not_changed(dtype):
    h = second_moment(6, 0).to(dtype)
    h[2] = 0
    h[:, 2] = 0
    before = h.clone()
    hessian = Hessian(h)
    _ = hessian.inv_diag_weight
    assert torch.equal(h, before)
    assert hessian.matrix.dtype == torch.float32
    assert hessian.matrix[2, 2] > 0


def test_dead_channels_get_a_little_heat_of_their_own():
    h = second_moment(6, 0)
    h[2] = 1e-30
    h[:, 2] = 1e-30
    hessian = Hessian(h)
    assert hessian.dead_channels == 1
    others = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(hessian.matrix[others][:, others], h[others][:, others])
    row = hessian.matrix[2].clone()
    assert 0 < row[2] < 0.01 * h.diagonal()[others].min()
    row[2] = 0
    assert not bool(row.any())
    assert torch.equal(hessian.matrix, hessian.matrix.T)


def test_a_cold_but_live_channel_is_left_alone():
    h = torch.diag(torch.tensor([1.0, 1e-6, 2.0]))
    hessian = Hessian(h)
    assert hessian.dead_channels == 0
    assert torch.equal(hessian.matrix, h)


def test_all_channels_dead_is_an_identity():
    hessian = Hessian(torch.zeros(3, 3))
    assert hessian.dead_channels == 3
    assert torch.equal(hessian.matrix, torch.eye(3))
    assert bool(torch.isfinite(hessian.inv_diag_weight).all())


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.3])
def test_inv_diag_weight_is_one_over_the_inverses_diagonal(damping):
    h = second_moment(9, 1, 1e3)
    matrix = h.double() + damping * h.diagonal().double().mean() * torch.eye(9)
    hessian = Hessian(h, damping)
    wanted = 1 / torch.linalg.inv(matrix).diagonal()
    torch.testing.assert_close(hessian.inv_diag_weight.double(), wanted, rtol=1e-5, atol=1e-8)
    assert hessian.damping_used == damping


def test_inv_diag_weight_of_uncorrelated_channels_is_their_heat():
    diag_h = torch.tensor([3.0, 1.0, 0.5])
    torch.testing.assert_close(Hessian(torch.diag(diag_h), 0.0).inv_diag_weight, diag_h)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_singular_matrices_are_damped_until_they_can_be_inverted(damping):
    x = torch.tensor([1.0, 2.0, -1.0, 0.5])
    hessian = Hessian(torch.outer(x, x) - 1e-3 * torch.eye(4), damping)
    assert bool(torch.isfinite(hessian.inv_diag_weight).all())
    assert bool((hessian.inv_diag_weight > 0).all())
    assert 0 < hessian.damping_used <= 0.01


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_the_feedback_factor_turns_the_loss_into_a_norm(damping):
    h = second_moment(10, 2, 1e3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    factor = Hessian(h, damping).feedback_factor(order).double()
    assert torch.equal(factor, factor.triu())
    error = torch.randn(5, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = (h.double() + damping * h.diagonal().double().mean() * torch.eye(10))[order][:, order]
    norm = torch.linalg.solve_triangular(factor, error, upper=True, left=False).square().sum(1)
    torch.testing.assert_close(norm, ((error @ matrix) * error).sum(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("multiple", "added"), [(1, 0), (5, 0), (4, 2)])
def test_padding_adds_zero_channels_and_is_done_once(multiple, added):
    hessian = Hessian(second_moment(10, 2))
    padded = hessian.padded(multiple, 0.5)
    assert padded.matrix.shape == (10 + added, 10 + added)
    assert torch.equal(padded.matrix[:10, :10], hessian.matrix)
    assert (padded.damping, padded.dead_channels) == (0.5, added)
    assert hessian.padded(multiple, 0.5) is padded
    assert hessian.padded(multiple, 0.25) is not padded
    assert hessian.padded(5, hessian.damping) is hessian


def test_a_shared_factor_is_the_factor_and_worked_out_once_for_an_order(monkeypatch):
    hessian, asked = Hessian(second_moment(10, 2)), []
    plain = Hessian.feedback_factor

    def counted(self, order):
        asked.append(order.tolist())
        time.sleep(0.05)
        return plain(self, order)

    monkeypatch.setattr(Hessian, "feedback_factor", counted)
    natural, reverse = torch.arange(10), torch.arange(9, -1, -1)
    with ThreadPoolExecutor(4) as pool:
        factors = list(pool.map(hessian.shared_factor, [natural.clone() for _ in range(8)]))
    assert asked == [natural.tolist()]
    assert all(factor is factors[0] for factor in factors)
    assert torch.equal(factors[0], plain(hessian, natural))
    assert torch.equal(hessian.shared_factor(reverse), plain(hessian, reverse))
    assert torch.equal(hessian.shared_factor(natural), factors[0])
    assert len(asked) == 3


def test_second_moments_summed_in_float32_over_long_streams_are_close_enough():
    """Running mean of x xᵀ, as calibration forms it: 400 batches, one channel 1000 times hotter."""
    generator = torch.Generator().manual_seed(0)
    single, double = torch.zeros(16, 16), torch.zeros(16, 16, dtype=torch.float64)
    energies = torch.logspace(0, 3, 16)
    mix = torch.randn(16, 16, generator=generator)
    for seen in range(400):
        x = (torch.randn(64, 16, generator=generator) @ mix) * energies
        single += (x.T @ x / 64 - single) / (seen + 1)
        double += (x.double().T @ x.double() / 64 - double) / (seen + 1)
    roots = double.diagonal().sqrt()
    relative = (single.double() - double).abs() / torch.outer(roots, roots)
    assert float(relative.max()) < 1e-5
    torch.testing.assert_close(
        Hessian(single).inv_diag_weight, Hessian(double).inv_diag_weight, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("damping", [0.02, 0.3, 1.0])
def test_damping_by_the_whole_mean_is_tried_before_giving_up(damping):
    """The lower eigenvalue is -0.75: no damping below that is enough."""
    h = torch.eye(2)
    h[0, 1] = h[1, 0] = 1.75
    hessian = Hessian(h, damping=damping)
    hessian.feedback_factor(torch.arange(2))
    assert hessian.damping_used == 1.0
