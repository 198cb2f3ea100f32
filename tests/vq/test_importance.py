"""Importance forms by their closed form on examples worked by hand."""

import pytest
import torch

from crvq.vq import importance as module
from crvq.vq.hessian import Hessian
from crvq.vq.importance import channel_importance, importance_names, row_scales
from tests.vq.coded_examples import second_moment

W = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
R = torch.tensor([[0.5, -1.0], [0.1, 2.0]])
H = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
# [H⁻¹] = [[1, -0.5], [-0.5, 2]] / 1.75
BY_HAND = {
    "error_activation": [(0.25 + 0.01) / 2 * 2.0, (1.0 + 4.0) / 2 * 1.0],
    "max_error_over_inverse": [0.25 * 1.75 / 1.0, 4.0 * 1.75 / 2.0],
    "max_error_times_inverse": [0.25 * 1.0 / 1.75, 4.0 * 2.0 / 1.75],
    "weight": [2.0, 1.0],
    "activation": [2.0, 1.0],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("form", BY_HAND)
def test_forms_on_an_example_by_hand(form, monkeypatch):
    monkeypatch.setattr(module, "_vq_residual", lambda *_: R)
    found = channel_importance(form, W, Hessian(H, 0.0), 1, 2, seeded())
    torch.testing.assert_close(found, torch.tensor(BY_HAND[form]), rtol=1e-5, atol=1e-6)


def test_every_form_is_named_and_tested():
    assert importance_names() == sorted([*BY_HAND, "random"])


def test_the_error_is_that_of_a_trial_codebook():
    """As many entries as vectors leave no error; one entry leaves the distance from the mean."""
    weight = torch.randn(6, 4, generator=seeded())
    hessian = Hessian(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), 0.0)
    none = channel_importance("error_activation", weight, hessian, 2, 12, seeded())
    torch.testing.assert_close(none, torch.zeros(4), rtol=0, atol=1e-10)
    one = channel_importance("error_activation", weight, hessian, 2, 1, seeded())
    scales = weight.square().mean(1, keepdim=True).sqrt()
    mean = (weight / scales).view(-1, 2).mean(0).repeat(2)
    residual = weight - mean * scales
    wanted = residual.square().mean(0) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-6)


def test_a_hot_channel_comes_out_first():
    weight = torch.randn(64, 8, generator=seeded())
    diag_h = torch.ones(8)
    diag_h[5] = 50.0
    found = channel_importance(
        "error_activation", weight, Hessian(torch.diag(diag_h)), 4, 8, seeded()
    )
    assert int(found.argmax()) == 5


def test_random_is_seeded():
    hessian = Hessian(second_moment(8, 0))
    weight = torch.randn(3, 8, generator=seeded())
    first, same, other = (
        channel_importance("random", weight, hessian, 4, 4, seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("form", importance_names())
def test_every_form_is_finite_and_not_negative_on_zero_rows_and_dead_channels(form):
    weight = torch.randn(6, 8, generator=seeded())
    weight[2] = 0
    h = second_moment(8, 0)
    h[3] = 0
    h[:, 3] = 0
    found = channel_importance(form, weight, Hessian(h), 4, 4, seeded())
    assert found.shape == (8,)
    assert bool(torch.isfinite(found).all())
    assert bool((found >= 0).all())


def test_the_activation_form_is_not_a_view_of_the_hessian():
    hessian = Hessian(second_moment(4, 0))
    found = channel_importance("activation", torch.ones(2, 4), hessian, 2, 2, seeded())
    before = hessian.matrix.clone()
    found += 1
    assert torch.equal(hessian.matrix, before)


def test_row_scales_are_root_mean_squares_and_positive():
    scales = row_scales(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1.0, 1.0]]))
    torch.testing.assert_close(scales[[0, 2]], torch.tensor([12.5**0.5, 1.0]))
    assert scales[1] > 0
