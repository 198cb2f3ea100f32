"""OPQ's closed forms against numerical minima, and ratio_opt's choice against all choices."""

import itertools
from math import exp

import pytest
import torch

from crvq.methods.opq import best_step, laplace_kept
from crvq.methods.ratio_opt import choose_least, largest_impact
from crvq.methods.scalar_params import OpqParams, RatioOptParams
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, make, planned_bits, quantize


def test_layers_keep_what_one_threshold_leaves():
    """The margin β² is equal: moving a kept weight between layers gains nothing (Lagrange)."""
    sizes, numbers = [0.1, 0.3, 0.05], [40_000, 10_000, 20_000]
    kept = laplace_kept(sizes, numbers, 0.3)
    assert sum(kept) == 21_000

    def pruned(b, part):  # by integration: a Laplacian's loss below its quantile
        w = torch.linspace(0, 40 * b, 400_001, dtype=torch.float64)
        density = (-w / b).exp() / b
        threshold = -b * float(torch.log(torch.tensor(part, dtype=torch.float64)))
        return float(torch.trapezoid(torch.where(w < threshold, w**2 * density, 0.0), w))

    def loss(one):
        return sum(n * pruned(b, k / n) for b, n, k in zip(sizes, numbers, one, strict=True))

    for here, there in itertools.permutations(range(3), 2):
        moved = list(kept)
        moved[here] += 150
        moved[there] -= 150
        if min(moved) > 0:
            assert loss(moved) > loss(kept) * (1 - 1e-6)


@pytest.mark.parametrize(("threshold", "size", "levels"), [(0.0, 1.0, 7), (0.4, 0.2, 3)])
def test_the_step_is_the_minimum_of_its_loss(threshold, size, levels):
    def loss(step):
        return step**2 / 12 + 2 * size**2 * exp(-(step * levels - threshold) / size)

    step = best_step(threshold, size, levels)
    assert loss(step) < min(loss(0.99 * step), loss(1.01 * step))


def test_opq_keeps_the_largest_weights_and_one_step():
    linear = random_linear()
    weight = quantize("opq", linear, sparsity=0.75).weight
    kept = linear.weight.abs() >= linear.weight.abs().flatten().topk(192).values[-1]
    assert torch.equal(weight.mask, kept)
    assert weight.marked_steps.shape == (1,)


@pytest.mark.parametrize("seed", range(4))
def test_choices_are_within_the_limit_and_near_the_best(seed):
    draw = torch.Generator().manual_seed(seed)
    losses = torch.rand(4, 5, generator=draw).sort(1, descending=True).values.tolist()
    costs = torch.rand(4, 5, generator=draw).sort(1).values.tolist()
    limit = 0.5 * sum(row[-1] for row in costs) + 0.5 * sum(row[0] for row in costs)

    def sums(chosen):
        places = list(enumerate(chosen))
        return sum(losses[i][j] for i, j in places), sum(costs[i][j] for i, j in places)

    every = [sums(one) for one in itertools.product(range(5), repeat=4)]
    best = min(loss for loss, cost in every if cost <= limit)
    loss, cost = sums(choose_least(losses, costs, limit))
    assert cost <= limit
    assert best <= loss < 1.5 * best  # random losses are not convex


def test_high_impact_is_the_largest_product():
    weight, diag = torch.tensor([[1.0, -2, 3], [4, 0, 1]]), torch.tensor([20.0, 3, 1])
    assert largest_impact(weight, diag, 0.5).tolist() == [[True, True, False], [True, False, False]]


def test_allocation_spends_no_more_and_loses_less():
    linears = [random_linear(name=f"l.{seed}", seed=seed) for seed in range(3)]
    linears[1].weight[:, 4] *= 12
    params = {"ratio": 0.05, "steps": 0, "group_size": None}
    total = {}
    for allocate in (False, True):
        found = list(make("ratio_opt", **params, allocate=allocate).quantize_block(0, linears))
        bits = sum(one.weight.bits().total for one in found)
        total[allocate] = sum(one.relative_loss for one in found), bits
    assert total[True][0] < total[False][0]
    assert total[True][1] <= total[False][1]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("opq", {}),
        ("opq", {"sparsity": 0.0}),
        ("ratio_opt", {"steps": 3}),
        ("ratio_opt", {"ratio": 0.0, "steps": 3, "group_size": 12}),
    ],
)
def test_what_is_reported_is_what_is_stored(name, params):
    linear = random_linear()
    result = quantize(name, linear, **params)
    check_result(result)
    assert result.weight.bits().total <= planned_bits(name, linear, **params).total


@pytest.mark.parametrize(
    ("params", "values"), [(OpqParams, {"sparsity": 1}), (RatioOptParams, {"ratio": 0.4})]
)
def test_parameters_out_of_range_are_refused(params, values):
    with pytest.raises(ValueError, match=r"less than"):
        params(**values)
