"""OBQ against its definition: H of the weights that are left inverted again at every step."""

import itertools

import pytest
import torch

from crvq.vq.greedy_rounding import _round_rows, round_greedily
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


def by_definition(row, h, step, zero, levels, costly_first=False):
    """Algorithm 3 in float64, with explicit inverses of submatrices."""
    w, left, codes = row.double().clone(), list(range(len(row))), [0] * len(row)
    while left:
        inverse = torch.linalg.inv(h.double()[left][:, left])
        near = ((w[left] / step).round() + zero).clamp(0, levels - 1)
        errors = w[left] - (near - zero) * step
        if costly_first:
            place = int(inverse.diagonal().argmin())
        elif float(errors.square().max()) > 0.25 * step**2 * (1 + 1e-4):
            place = int(errors.square().argmax())
        else:
            place = int((errors.square() / inverse.diagonal()).argmin())
        codes[left[place]] = int(near[place])
        w[left] -= errors[place] / inverse[place, place] * inverse[:, place]
        del left[place]
    return codes


def example(rows, columns, step=0.5):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))
    h = second_moment(columns) / 10 + torch.eye(columns)
    steps = torch.full_like(weight, step)
    zeros = torch.full(weight.shape, 4)
    return weight, h, steps, zeros


@pytest.mark.parametrize("columns", [1, 5, 17])
@pytest.mark.parametrize("kernel", [round_greedily, _round_rows])
@pytest.mark.parametrize("costly_first", [False, True])
def test_codes_are_those_of_the_definition(kernel, columns, costly_first):
    weight, h, steps, zeros = example(9, columns)
    codes = kernel(weight, torch.linalg.inv(h.double()).float(), steps, zeros, 8, costly_first)
    expected = [by_definition(row, h, 0.5, 4, 8, costly_first) for row in weight]
    assert codes.tolist() == expected


def test_tiny_rows_are_near_the_best_of_all_codes():
    weight, h, steps, zeros = example(12, 4)
    codes = round_greedily(weight, torch.linalg.inv(h), steps, zeros, 8)
    ratios = []
    for row, own in zip(weight, codes, strict=True):
        every = torch.tensor(list(itertools.product(range(8), repeat=4)))
        errors = row - (every - 4) * 0.5
        best = float(((errors @ h) * errors).sum(1).min())
        error = row - (own - 4) * 0.5
        ratios.append(float(error @ h @ error) / best)
    assert min(ratios) >= 1 - 1e-4
    assert sum(ratio < 1 + 1e-4 for ratio in ratios) >= 4  # of 12, the very best


def test_with_a_diagonal_h_it_is_rounding_to_nearest():
    linear = random_linear(hessian=Hessian(torch.logspace(-1, 1, 32).diag()))
    nearest = quantize("rtn", linear, group_size=16).weight.dequantize()
    assert torch.equal(quantize("obc", linear, group_size=16).weight.dequantize(), nearest)


@pytest.mark.parametrize("group_size", [None, 12])
def test_what_is_reported_is_what_is_stored_and_beats_rounding(group_size):
    linear = random_linear()
    result = quantize("obc", linear, group_size=group_size)
    check_result(result)
    assert result.weight.bits() == planned_bits("obc", linear, group_size=group_size)
    assert result.relative_loss < quantize("rtn", linear, group_size=group_size).relative_loss


def test_where_one_channel_carries_h_costly_weights_first_lose_less():
    h = second_moment(32)
    h[5] *= 20
    h[:, 5] *= 20
    linear = random_linear(hessian=Hessian(h))
    params = {"bits": 3, "group_size": None}
    first = quantize("obc", linear, order="costly_first", **params).relative_loss
    assert first < 0.7 * quantize("obc", linear, **params).relative_loss
    assert first < 1.05 * quantize("gptq", linear, **params).relative_loss
