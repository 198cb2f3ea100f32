"""A linear in coded order: permutation of weight and curvature together."""

import pytest
import torch

from crvq.vq.coded_linear import coded_linear
from crvq.vq.curvature import Curvature
from tests.vq.coded_examples import random_linear, second_moment


def test_weight_and_curvature_are_permuted_alike():
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    curvature = Curvature(second_moment(6, 1))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    linear = coded_linear(weight, curvature, order, [3, 1], torch.ones(3))
    for here, there in enumerate(order.tolist()):
        assert torch.equal(linear.weight[:, here], weight[:, there])
        assert linear.stiffness[here] == curvature.stiffness[there]
        for other, origin in enumerate(order.tolist()):
            assert linear.second_moment[here, other] == curvature.matrix[there, origin]
    assert linear.group_size == 2
    assert [tuple(c.shape) for c in linear.code.codes] == [(3, 3), (3, 1)]


def test_energy_is_the_loss_of_coding_nothing():
    linear, _ = random_linear()
    w, h = linear.weight.double(), linear.second_moment.double()
    assert linear.energy == pytest.approx(float(torch.trace(w @ h @ w.T)), rel=1e-5)


def test_diagonal_blocks():
    linear, _ = random_linear(groups=3, d=4, coverage=(3,))
    blocks = linear.diagonal_blocks()
    assert blocks.shape == (3, 4, 4)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        assert torch.equal(blocks[group], linear.second_moment[part, part])


def test_the_feedback_factor_is_that_of_the_order():
    curvature = Curvature(second_moment(6, 1))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    linear = coded_linear(torch.ones(2, 6), curvature, order, [3], torch.ones(2))
    assert torch.equal(linear.feedback_factor, curvature.feedback_factor(order))
