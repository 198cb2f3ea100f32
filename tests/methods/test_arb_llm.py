"""ARB-LLM_RC against the best rank-one fit (SVD), autograd, and brute force over signs."""

import itertools

import pytest
import torch

from crvq.methods.binary_params import ArbLlmParams
from crvq.vq.row_column import best_two_signs, rank_one
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("block_size", [8, 12, None])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_reported_is_what_is_stored(in_features, block_size, splitting):
    linear = random_linear(in_features=in_features)
    params = {"block_size": block_size, "splitting": splitting}
    result = quantize("arb_llm", linear, **params)
    check_result(result)
    assert result.weight.bits().total <= planned_bits("arb_llm", linear, **params).total
    exact = {"block_size": 8, "most_salient": 0.125, "splitting": splitting}
    result = quantize("arb_llm", linear, **exact)
    assert result.weight.bits() == planned_bits("arb_llm", linear, **exact)


def test_rank_one_is_the_leading_singular_pair_without_a_mask():
    magnitudes = draw(9, 6).abs()
    everywhere = torch.ones(9, 6, dtype=torch.bool)
    alpha, beta = rank_one(magnitudes, everywhere, torch.ones(6), 200)
    u, s, v = torch.linalg.svd(magnitudes.double())
    best = s[0] * u[:, :1] @ v[:1]
    torch.testing.assert_close((alpha[:, None] * beta).double(), best, rtol=1e-4, atol=1e-5)
    assert float(beta.square().mean()) == pytest.approx(1.0, rel=1e-5)


def test_rank_one_with_a_mask_has_no_gradient_left():
    magnitudes, mask = draw(9, 6).abs(), draw(9, 6, seed=1) > -0.3
    mask[2], mask[:, 4] = False, False
    alpha, beta = rank_one(magnitudes, mask, torch.ones(6), 500)
    assert alpha[2] == beta[4] == 0
    free = [alpha.double().requires_grad_(), beta.double().requires_grad_()]
    error = (magnitudes - free[0][:, None] * free[1]) * mask
    for gradient in torch.autograd.grad(error.square().sum(), free):
        assert float(gradient.abs().max()) < 1e-5


def test_refinement_never_raises_the_error():
    magnitudes, mask = draw(9, 6).abs(), draw(9, 6, seed=1) > 0
    losses = []
    for iterations in range(6):
        alpha, beta = rank_one(magnitudes, mask, torch.ones(6), iterations)
        losses.append(float(((magnitudes - alpha[:, None] * beta) * mask).square().sum()))
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


def test_two_signs_are_the_best_of_four():
    weight, first, second = draw(5, 7), draw(5, 7, seed=1), draw(5, 7, seed=2)
    one, two = best_two_signs(weight, first, second)
    mine = (weight - (one * 2.0 - 1) * first - (two * 2.0 - 1) * second).abs()
    every = [
        (weight - a * first - b * second).abs() for a, b in itertools.product((1, -1), repeat=2)
    ]
    torch.testing.assert_close(mine, torch.stack(every).amin(0))


def test_refined_scales_and_groups_lower_the_loss():
    linear = random_linear(48, 64)
    base = {"block_size": 16}
    full = quantize("arb_llm", linear, **base).relative_loss
    assert full < 0.97 * quantize("arb_llm", linear, **base, refine_iterations=0).relative_loss
    assert full < 0.9 * quantize("arb_llm", linear, **base, splitting=False).relative_loss
    assert full < quantize("arb_llm", linear, **base, most_salient=0).relative_loss
    assert full < quantize("billm", linear, **base).relative_loss


def test_a_matrix_of_signs_times_row_and_column_scales_is_exact():
    """What the format can hold it finds, whatever H: nothing is lost but float16's rounding."""
    linear = random_linear(16, 24)
    exact = draw(16, 24).sign() * (0.5 + draw(16, 1).abs()) * (0.5 + draw(1, 24).abs())
    linear.weight.copy_(exact)
    params = {"block_size": None, "most_salient": 0, "splitting": False}
    assert quantize("arb_llm", linear, **params).relative_loss < 1e-6


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_size": 0}, "greater than or equal to 1"),
        ({"most_salient": 1.5}, "less than or equal to 1"),
        ({"refine_iterations": -1}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        ArbLlmParams(**params)
