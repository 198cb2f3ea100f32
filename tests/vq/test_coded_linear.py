"""A linear coded in another order than its own, against one whose W and H are in that order."""

import pytest
import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear, coded_linear
from crvq.vq.codebook_solve import solve_codebooks
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.feedback_search import search_codes
from crvq.vq.hessian import Hessian
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.vq.scale_solve import solve_scales
from tests.vq.coded_examples import random_linear, second_moment

ORDER = torch.tensor([3, 0, 7, 5, 1, 6, 4, 2])


def shuffled_and_sorted() -> tuple[CodedLinear, CodedLinear, list[Tensor]]:
    """A linear that is coded in `ORDER`, and its twin with W and H themselves in that order."""
    generator = torch.Generator().manual_seed(0)
    weight, matrix = torch.randn(9, 8, generator=generator), second_moment(8, 1)
    scales = 0.5 + torch.rand(9, generator=generator)
    codes = [torch.randint(5, (9, groups), generator=generator) for groups in (4, 2)]
    codebooks = [torch.randn(5, 2, generator=generator) for _ in codes]
    twins = []
    for w, h, order in (
        (weight, matrix, ORDER),
        (weight[:, ORDER], matrix[ORDER][:, ORDER], torch.arange(8)),
    ):
        linear = coded_linear(w, Hessian(h), order, [4, 2], scales.clone())
        linear.code.codes = [c.clone() for c in codes]
        twins.append(linear)
    return twins[0], twins[1], codebooks


def test_shapes_follow_coverage():
    linear, _, _ = shuffled_and_sorted()
    assert linear.group_size == 2
    assert [tuple(c.shape) for c in linear.code.codes] == [(9, 4), (9, 2)]


def test_losses_blocks_and_inv_diag_weight_are_those_of_the_sorted_twin():
    linear, twin, codebooks = shuffled_and_sorted()
    torch.testing.assert_close(linear.row_loss(codebooks), twin.row_loss(codebooks))
    torch.testing.assert_close(linear.diagonal_blocks(), twin.diagonal_blocks())
    torch.testing.assert_close(linear.inv_diag_weight, twin.inv_diag_weight)
    assert linear.energy == pytest.approx(twin.energy)


def test_codebooks_and_scales_are_solved_as_in_the_sorted_twin():
    linear, twin, codebooks = shuffled_and_sorted()
    torch.testing.assert_close(solve_scales(linear, codebooks), solve_scales(twin, codebooks))
    for mine, its in zip(
        solve_codebooks([linear], codebooks, 5), solve_codebooks([twin], codebooks, 5), strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


def test_searches_find_the_sorted_twins_codes():
    linear, twin, codebooks = shuffled_and_sorted()
    losses, its = descend_codes(linear, codebooks), descend_codes(twin, codebooks)
    assert all(map(torch.equal, linear.code.codes, twin.code.codes))
    torch.testing.assert_close(losses, its)
    mine = search_codes(linear, codebooks, 2, into=linear.code)
    assert mine.codes is linear.code.codes
    assert all(map(torch.equal, mine.codes, search_codes(twin, codebooks, 2).codes))


def test_first_codebooks_are_the_sorted_twins():
    linear, twin, _ = shuffled_and_sorted()
    mine, its = (
        initial_codebooks([x], [4, 3], 5, 100, torch.Generator().manual_seed(0))
        for x in (linear, twin)
    )
    for one, other in zip(mine, its, strict=True):
        torch.testing.assert_close(one, other)


def test_energy_is_the_loss_of_coding_nothing():
    linear, _ = random_linear()
    w, h = linear.weight.double(), linear.hessian.matrix.double()
    assert linear.energy == pytest.approx(float(torch.trace(w @ h @ w.T)), rel=1e-5)


def test_diagonal_blocks():
    linear, _ = random_linear(groups=3, d=4, coverage=(3,))
    blocks = linear.diagonal_blocks()
    assert blocks.shape == (3, 4, 4)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        assert torch.equal(blocks[group], linear.hessian.matrix[part, part])


def test_the_feedback_factor_is_that_of_the_order():
    hessian = Hessian(second_moment(6, 1))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    linear = coded_linear(torch.ones(2, 6), hessian, order, [3], torch.ones(2))
    assert torch.equal(linear.feedback_factor, hessian.feedback_factor(order))
