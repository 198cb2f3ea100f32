"""OneBit and NanoQuant: their scales and factors against closed forms, autograd and brute force."""

import itertools

import pytest
import torch

from crvq.methods.nanoquant import rank_for
from crvq.vq.binary import signed
from crvq.vq.two_sided import _regress, binary_factors, fit_two_sided, rank_one
from crvq.weights import FormatError, unpack_weight
from crvq.weights.two_sided_signs import BinaryFactorsWeight, TwoSidedSignsWeight
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize

METHODS = [
    ("onebit", {}),
    ("onebit", {"refine_iterations": 0}),
    ("nanoquant", {"bits": 2.0, "iterations": 10}),
    ("nanoquant", {"bits": 0.1, "iterations": 3, "refine_iterations": 2}),
]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(out=5, columns=7, rank=3):
    scales = draw(out, seed=3).half().float(), draw(columns, seed=4).half().float()
    return BinaryFactorsWeight(draw(out, rank) > 0, draw(columns, rank, seed=1) > 0, *scales)


def signs(out=5, columns=7):
    scales = draw(out, seed=3).half().float(), draw(columns, seed=4).half().float()
    return TwoSidedSignsWeight(draw(out, columns) > 0, *scales)


def test_weights_decode_by_their_definitions_and_bits_by_hand():
    weight, plain = factors(), signs()
    for o, j in itertools.product(range(5), range(7)):
        both = float(weight.rows[o] * weight.columns[j])
        agree = sum(1 if weight.left[o, k] == weight.right[j, k] else -1 for k in range(3))
        assert float(weight.dequantize()[o, j]) == pytest.approx(both * agree)
        sign = 1 if plain.signs[o, j] else -1
        assert float(plain.dequantize()[o, j]) == pytest.approx(both * sign)
    assert (weight.bits().codes, weight.bits().scales) == (8 * (2 + 3), 16 * 12)
    assert (plain.bits().codes, plain.bits().scales) == (8 * 5, 16 * 12)
    assert plain.bits_as_published() == 35


@pytest.mark.parametrize("make", [factors, signs])
def test_a_missing_scale_is_refused(make):
    weight, tensors = make(), make().pack()
    del tensors["rows"]
    with pytest.raises(FormatError, match="rows: the tensor is missing"):
        unpack_weight(weight.header(), tensors, {})


def test_rank_one_is_a_stationary_point_and_keeps_an_exact_product():
    a, b = draw(6).abs() + 0.1, draw(9, seed=1).abs() + 0.1
    rows, columns = rank_one(a[:, None] * b)
    torch.testing.assert_close(rows[:, None] * columns, a[:, None] * b)
    noisy = draw(6, 9, seed=2).abs().double()
    free = [one.double().requires_grad_() for one in rank_one(noisy)]
    loss = (noisy - free[0][:, None] * free[1]).square().sum()
    for gradient in torch.autograd.grad(loss, free):
        assert float(gradient.abs().max()) < 1e-4


def test_fitted_scales_have_no_gradient_left_and_never_lose():
    weight, core, h = draw(8, 6), signed(draw(8, 6, seed=1) > -0.5), second_moment(6)
    losses = []
    for iterations in (0, 1, 300):
        scales = fit_two_sided(weight, core, h, rank_one(weight.abs()), iterations)
        free = [one.double().requires_grad_() for one in scales]
        error = weight - free[0][:, None] * core * free[1]
        loss = ((error @ h.double()) * error).sum()
        losses.append(float(loss.detach()))
    assert losses[0] > losses[1] > losses[2]
    # b was fitted last: its gradient vanishes up to the ridge and float32.
    gradient = torch.autograd.grad(loss, free[1])[0]
    scale = float((2 * (core.T.double() @ weight.double()) @ h.double()).abs().max())
    assert float(gradient.abs().max()) < 1e-4 * scale


def test_a_regression_minimizes_what_it_says():
    weight, other, towards = draw(4, 6), draw(6, 3, seed=1), draw(4, 3, seed=2)
    mean = (other.T @ other).diagonal().mean().double()
    free = _regress(weight, other, towards, 0.5, 0.1).double().requires_grad_()
    loss = (weight - free @ other.T.double()).square().sum()
    loss = loss + mean * (0.5 * (free - towards).square().sum() + 0.1 * free.square().sum())
    assert float(torch.autograd.grad(loss, free)[0].abs().max()) < 1e-4


def test_admm_finds_factors_of_a_weight_that_has_them():
    """Tiny: of all signs of rank one, the product of the right ones is exact."""
    left, right = draw(6, 1) > 0, draw(5, 1, seed=1) > 0
    weight = signed(left) @ signed(right).T * (draw(6, seed=2).abs() + 0.1)[:, None]
    u, v, a, b = binary_factors(weight, 1, 30, 0.0, seed=0)
    torch.testing.assert_close(
        a[:, None] * (signed(u) @ signed(v).T) * b, weight, atol=1e-3, rtol=1e-3
    )


def test_more_rank_loses_less_and_far_less_than_signs():
    linear = random_linear(48, 64)
    losses = [
        quantize("nanoquant", linear, bits=bits, iterations=40).relative_loss
        for bits in (1.0, 1.5, 2.0)
    ]
    assert losses[0] > 1.2 * losses[1] > 1.44 * losses[2]


@pytest.mark.parametrize(("name", "params"), METHODS, ids=str)
def test_what_is_reported_is_what_is_stored(name, params):
    linear = random_linear()
    result = quantize(name, linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits(name, linear, **params)


def test_rank_stays_below_the_bits_asked_for():
    for rows, columns, bits in [(576, 576, 1.0), (576, 1536, 0.55), (192, 576, 2.0)]:
        rank = rank_for(bits, rows, columns)
        assert (rank + 16) * (rows + columns) <= bits * rows * columns
        assert (rank + 17) * (rows + columns) > bits * rows * columns
