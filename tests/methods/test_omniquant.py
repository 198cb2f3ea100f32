"""Learned clipping against a search over all factors, and its gradient against differences."""

import itertools

import pytest
import torch

from crvq.methods.scalar_params import OmniquantParams
from crvq.vq.clipping import ClippedGrids, learn_clipping
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("group_size", [8, 100, None])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_reported_is_what_is_stored(in_features, group_size):
    linear = random_linear(in_features=in_features)
    params = {"bits": 2, "group_size": group_size, "steps": 15}
    result = quantize("omniquant", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("omniquant", linear, **params)


def test_without_steps_it_is_rounding_to_nearest_and_with_steps_never_worse():
    linear = random_linear(24, 32)
    rounded = quantize("rtn", linear, bits=2, group_size=8)
    none = quantize("omniquant", linear, bits=2, group_size=8, steps=0)
    some = quantize("omniquant", linear, bits=2, group_size=8, steps=60, learning_rate=0.1)
    assert none.relative_loss <= rounded.relative_loss * (1 + 1e-5)
    assert some.relative_loss < 0.9 * rounded.relative_loss


def test_each_row_comes_near_the_best_of_all_factors():
    """One group, so the rows are problems of two numbers: a search over 60 x 60 of them."""
    weight, h = draw(6, 24), second_moment(24)
    grids = ClippedGrids(weight, 2, 24)

    def losses(low, high):
        error = weight - grids.decoded(low, high)
        return ((error @ h) * error).sum(1)

    found = losses(*learn_clipping(grids, h, 300, 0.05))
    best = torch.full((6,), torch.inf)
    values = torch.linspace(0.3, 1.0, 60)
    for low, high in itertools.product(values, repeat=2):
        best = torch.minimum(best, losses(low.expand(6, 1), high.expand(6, 1)))
    plain = losses(torch.ones(6, 1), torch.ones(6, 1))
    assert bool((found <= plain).all())
    # Between plain rounding and the best of the search, it goes most of the way.
    assert float((plain - found).sum() / (plain - best).sum()) > 0.6


def test_gradients_pass_through_the_grid():
    """Where no rounding flips, decoding is smooth in the factors but for the codes' own motion."""
    weight = draw(3, 8).double()
    grids = ClippedGrids(weight, 3, 4)
    factors = [torch.full((3, 2), value, dtype=torch.float64) for value in (0.8, 0.7)]
    free = [part.clone().requires_grad_() for part in factors]
    gradient = draw(3, 8, seed=3).double()
    found = torch.autograd.grad(grids.soft(*free), free, gradient)
    # By hand: d/ds of (clamp(w/s + z) - z) s with rounding as the identity: z moves too.
    group = torch.arange(8) // 4
    steps, zeros = grids.grids(*factors)
    s, z = steps[:, group], zeros[:, group].round()
    raw = (weight / s).round() + z
    inside = (raw >= 0) & (raw <= 7)
    codes = raw.clamp(0, 7) - z
    by_step = codes - torch.where(inside, weight / s, 0.0)
    by_zero = torch.where(inside, 0.0, -s)
    least = weight.unflatten(1, (2, 4)).amin(2).clamp_max(0)
    largest = weight.unflatten(1, (2, 4)).amax(2).clamp_min(0)
    to_step = (gradient * by_step).unflatten(1, (2, 4)).sum(2)
    to_zero = (gradient * by_zero).unflatten(1, (2, 4)).sum(2)
    # s = (h H - l L) / 7 and z = -l L / s.
    ds_low, ds_high = -least / 7, largest / 7
    dz_low = -least / steps + factors[0] * least / steps.square() * ds_low
    dz_high = factors[0] * least / steps.square() * ds_high
    torch.testing.assert_close(found[0], to_step * ds_low + to_zero * dz_low)
    torch.testing.assert_close(found[1], to_step * ds_high + to_zero * dz_high)


def test_an_outlier_is_clipped():
    linear = random_linear(4, 32, hessian=Hessian(torch.eye(32)))
    linear.weight[0, 3] = 8.0
    params = {"bits": 2, "group_size": None}
    learned = quantize("omniquant", linear, **params, steps=200, learning_rate=0.05).weight
    rounded = quantize("rtn", linear, **params).weight
    assert float(learned.steps[0, 0]) < 0.9 * float(rounded.steps[0, 0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 0}, "greater than or equal to 1"),
        ({"steps": -1}, "greater than or equal to 0"),
        ({"learning_rate": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        OmniquantParams(**params)
