import pytest
import torch

from crvq.vq.binary import PartialBinaryColumns
from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian, output_loss
from crvq.vq.uniform_grid import GridColumns
from tests.vq.coded_examples import second_moment
from tests.vq.test_gptq import random_weight


def columns_for(weight, ratio=0.1, bits=8, group=None, cost=None):
    cost = torch.ones(weight.shape[1]) if cost is None else cost
    return PartialBinaryColumns(weight, cost, ratio, bits, group or weight.shape[1])


def factor_of(h):
    return Hessian(h).feedback_factor(torch.arange(len(h)))


@pytest.mark.parametrize("feedback", [False, True])
def test_without_salient_weights_it_is_a_sign_times_the_mean_magnitude(feedback):
    weight, h = random_weight(6, 20), torch.eye(20)
    expected = weight.sign() * weight.abs().mean(1, keepdim=True).half().float()
    values = quantize_columns(weight, columns_for(weight, 0), factor_of(h) if feedback else None)
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("bits", [3, 8])
def test_with_salient_weights_only_it_is_gptq(bits):
    weight, h = random_weight(6, 20), second_moment(20, 3)
    grids = GridColumns((6, 20), bits, 20, weight.device)
    expected = quantize_columns(weight, grids, factor_of(h))
    values = quantize_columns(weight, columns_for(weight, 1, bits), factor_of(h))
    assert torch.equal(values, expected)


@pytest.mark.parametrize("group", [20, 8])
def test_the_weights_that_cost_most_are_salient_in_each_group(group):
    weight, cost = random_weight(6, 20), torch.rand(20, generator=torch.Generator().manual_seed(1))
    columns = columns_for(weight, 0.2, group=group, cost=cost)
    quantize_columns(weight, columns, None)
    losses = weight.square() * cost
    for low in range(0, 20, group):
        own, salient = losses[:, low : low + group], columns.salient[:, low : low + group]
        assert int(salient.sum()) == round(0.2 * own.numel())
        assert float(own[salient].min()) >= float(own[~salient].max())


def test_scales_are_those_of_the_weights_left():
    weight = random_weight(6, 20)
    columns = columns_for(weight, 0.2)
    quantize_columns(weight, columns, None)
    for row in range(6):
        left = weight[row][~columns.salient[row]]
        assert float(columns.scales[row, 0]) == pytest.approx(float(left.abs().mean()), rel=1e-3)


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_feedback_beats_none(ratio):
    weight, h = random_weight(32, 24), second_moment(24, 3, condition=1000.0)
    losses = [
        output_loss(weight - quantize_columns(weight, columns_for(weight, ratio), u), h)
        for u in (factor_of(h), None)
    ]
    assert losses[0] < 0.9 * losses[1]
