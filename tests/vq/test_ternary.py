"""Ternary fits against regression in float64, brute force over all trits, and autograd."""

import itertools

import pytest
import torch

from crvq.vq.ternary import (
    aligned_fit,
    best_trits,
    fit_asymmetric,
    fit_planes,
    nearest_trits,
    plain_fit,
    ridge_scales,
)
from tests.methods.linear_examples import second_moment


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trits_of(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, shape, generator=generator, dtype=torch.int8)


def regression(weight, trits, h=None):
    """(μ, α) of each row by `lstsq` on whitened columns [1, t]."""
    root = torch.eye(weight.shape[1], dtype=torch.float64)
    if h is not None:
        root = torch.linalg.cholesky(h.double())
    found = []
    for w, t in zip(weight.double(), trits.double(), strict=True):
        design = root.T @ torch.stack([torch.ones_like(t), t], 1)
        found.append(torch.linalg.lstsq(design, root.T @ w, driver="gelsd").solution)
    return torch.stack(found)


def test_plain_fit_is_the_regression():
    weight, trits = draw(6, 20), trits_of(6, 20)
    mine = torch.stack(plain_fit(weight, trits), 1).double()
    torch.testing.assert_close(mine, regression(weight, trits), rtol=1e-4, atol=1e-5)


def test_aligned_fit_is_the_regression_under_h():
    weight, trits, h = draw(6, 20), trits_of(6, 20), second_moment(20)
    mine = torch.stack(aligned_fit(weight, trits, h), 1).double()
    torch.testing.assert_close(mine, regression(weight, trits, h), rtol=1e-4, atol=1e-5)


def test_aligned_fit_has_no_gradient_left():
    weight, trits, h = draw(4, 12), trits_of(4, 12), second_moment(12).double()
    free = [part.double().requires_grad_() for part in aligned_fit(weight, trits, h)]
    error = weight.double() - free[0][:, None] - free[1][:, None] * trits
    loss = ((error @ h) * error).sum()
    size = loss.item()
    for gradient in torch.autograd.grad(loss, free):
        assert float(gradient.abs().max()) < 1e-5 * size


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_trits_that_are_all_alike_leave_the_centre(value):
    weight, trits = draw(3, 8), torch.full((3, 8), value, dtype=torch.int8)
    for centres, scales in (plain_fit(weight, trits), aligned_fit(weight, trits, torch.eye(8))):
        assert not scales.any()
        torch.testing.assert_close(centres, weight.mean(1))


def test_fitting_rests_where_neither_half_can_improve_and_never_rises():
    weight = draw(16, 24)

    def loss(iterations):
        centres, scales, trits = fit_asymmetric(weight, iterations)
        return (weight - centres[:, None] - scales[:, None] * trits).square().sum(1)

    losses = torch.stack([loss(iterations) for iterations in range(8)])
    assert bool((losses.diff(dim=0) <= 1e-4).all())
    assert float(losses[-1].sum()) < float(losses[0].sum())
    centres, scales, trits = fit_asymmetric(weight, 100)
    assert torch.equal(trits, nearest_trits(weight, centres, scales))


def test_fitting_is_near_the_best_of_all_trits():
    """Alternation finds a local optimum; against brute force over all 3^7 rows of trits."""
    weight = draw(20, 7)
    every = torch.tensor(list(itertools.product((-1, 0, 1), repeat=7)), dtype=torch.int8)
    ratios = []
    for row in weight:
        centres, scales = plain_fit(row.expand(len(every), -1), every)
        best = (row - centres[:, None] - scales[:, None] * every).square().sum(1).min()
        c, s, t = fit_asymmetric(row[None], 50)
        mine = (row - c[:, None] - s[:, None] * t).square().sum()
        assert mine >= best * (1 - 1e-5)
        ratios.append(float(mine / best))
    assert sorted(ratios)[10] < 1.3


def test_ridge_scales_are_the_regression_and_survive_equal_planes():
    weight, trits = draw(6, 20), trits_of(2, 6, 20)
    mine = ridge_scales(weight, trits)
    for row in range(6):
        design = trits[:, row].double().T
        exact = torch.linalg.lstsq(design, weight[row].double()).solution
        torch.testing.assert_close(mine[:, row].double(), exact, rtol=1e-5, atol=1e-5)
    twice = trits_of(1, 6, 20).expand(2, -1, -1)
    halves = ridge_scales(weight, twice)
    single = ridge_scales(weight, twice[:1])
    torch.testing.assert_close(halves.sum(0), single[0], rtol=1e-3, atol=1e-4)
    assert bool(torch.isfinite(ridge_scales(torch.zeros(2, 4), torch.zeros(2, 2, 4))).all())


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_best_trits_are_the_best_of_all_choices(planes):
    weight, scales = draw(5, 9), draw(planes, 5, seed=2)
    found = best_trits(weight, scales).to(torch.float32)
    mine = (weight - (found * scales[:, :, None]).sum(0)).abs()
    for row, column in itertools.product(range(5), range(9)):
        errors = [
            abs(
                float(weight[row, column])
                - sum(t * float(s) for t, s in zip(c, scales[:, row], strict=True))
            )
            for c in itertools.product((-1, 0, 1), repeat=planes)
        ]
        assert float(mine[row, column]) == pytest.approx(min(errors), abs=1e-6)


def test_two_planes_never_rise_and_are_near_the_best_of_all():
    weight = draw(8, 4)
    losses = []
    for iterations in range(6):
        scales, trits = fit_planes(weight, 2, iterations, 0.0)
        losses.append(float((weight - (trits * scales[:, :, None]).sum(0)).square().sum()))
    assert all(after <= before * (1 + 1e-3) for before, after in itertools.pairwise(losses))
    every = list(itertools.product((-1, 0, 1), repeat=4))
    pairs = torch.tensor([[a, b] for a in every for b in every], dtype=torch.int8).transpose(0, 1)
    ratios = []
    for row in weight:
        target = row.expand(pairs.shape[1], -1)
        scales = ridge_scales(target, pairs)
        best = (target - (pairs * scales[:, :, None]).sum(0)).square().sum(1).min()
        s, t = fit_planes(row[None], 2, 50, 1e-6)
        mine = (row - (t * s[:, :, None]).sum(0)).square().sum()
        assert mine >= best - 1e-4
        ratios.append(float((mine + 1e-3) / (best + 1e-3)))
    assert min(ratios) < 1.5
