import pytest
import torch

from crvq.vq.binary import SplitBinaryColumns, binary_scales, most_salient_columns, signed
from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian, output_loss
from tests.vq.coded_examples import second_moment
from tests.vq.test_gptq import random_weight


def columns_for(
    shape, block=8, width=None, most_salient=0.25, splitting=True, centred=False, cost=None
):
    cost = torch.ones(shape[1]) if cost is None else cost
    return SplitBinaryColumns(shape, cost, block, width or block, most_salient, splitting, centred)


def rounded(weight, **params):
    return quantize_columns(weight, columns_for(tuple(weight.shape), **params), None)


def error(weight, **params):
    return float((weight - rounded(weight, **params)).square().sum())


def test_one_group_without_salient_columns_is_a_sign_times_the_mean_magnitude():
    weight = random_weight(5, 12)
    expected = weight.sign() * weight.abs().mean(1, keepdim=True).half().float()
    actual = rounded(weight, block=12, most_salient=0, splitting=False)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_part_of_it_lowers_the_error_of_a_block(seed, centred):
    weight = random_weight(16, 32, seed)
    weight[:, ::7] *= 4
    plain = {"block": 32, "centred": centred, "most_salient": 0.0, "splitting": False}
    assert error(weight, **{**plain, "splitting": True}) < error(weight, **plain)
    assert error(weight, **{**plain, "most_salient": 0.2}) < error(weight, **plain)


@pytest.mark.parametrize("centred", [False, True])
def test_a_second_sign_is_never_worse_than_one(centred):
    """Salient weights row by row, next to plus or minus their mean magnitude."""
    weight = random_weight(64, 16) + 0.3
    weight[:, :5] *= 4
    columns = columns_for((64, 16), block=16, most_salient=0.5, centred=centred)
    two = quantize_columns(weight, columns, None)[:, columns.salient]
    salient = weight[:, columns.salient]
    assert salient.shape[1] > 2
    scales, centres = binary_scales(salient, torch.ones_like(salient, dtype=torch.bool), centred)
    one = centres[:, None] + scales[:, None] * signed(salient >= centres[:, None])
    errors = [(salient - values).double().square().sum(1) for values in (one, two)]
    assert (errors[1] <= errors[0] * (1 + 1e-3) + 1e-6).all()
    assert float(errors[1].sum()) < 0.5 * float(errors[0].sum())


def test_the_columns_that_cost_most_are_salient():
    cost = torch.ones(16)
    cost[5] = 1e3
    weight = random_weight(8, 16).sign()
    weight[:, 9] *= 20
    columns = columns_for((8, 16), block=16, most_salient=1 / 16, cost=cost)
    quantize_columns(weight, columns, None)
    assert columns.salient.nonzero().tolist() == [[5]]


def test_groups_are_split_by_magnitude_and_salient_columns_are_in_neither():
    weight = random_weight(8, 16)
    columns = columns_for((8, 16), block=16)
    quantize_columns(weight, columns, None)
    plain = ~columns.salient
    assert 1 <= int(columns.salient.sum()) <= 4
    assert not columns.sparse[:, columns.salient].any()
    small, large = weight[:, plain][~columns.sparse[:, plain]], weight[columns.sparse]
    assert float(small.abs().max()) < float(large.abs().min())


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("in_features", [24, 21])
def test_feedback_beats_none(in_features, width):
    weight, h = random_weight(32, in_features), second_moment(in_features, 3, condition=1000.0)
    factor = Hessian(h).feedback_factor(torch.arange(in_features))
    params = {"block": 8, "width": width, "cost": factor.diagonal().square().reciprocal()}
    losses = [
        output_loss(
            weight - quantize_columns(weight, columns_for((32, in_features), **params), u), h
        )
        for u in (factor, None)
    ]
    assert losses[0] < 0.8 * losses[1]


def test_an_error_of_a_block_is_answered_as_well_as_can_be():
    """What later columns become is the least-squares answer to the first block's error."""
    weight, h = random_weight(4, 12), second_moment(12, 3)
    factor = Hessian(h, damping=0.0).feedback_factor(torch.arange(12))
    seen = {}

    class Kept(SplitBinaryColumns):
        def start(self, columns, weight):
            seen[columns.start] = weight.clone()
            super().start(columns, weight)

    columns = Kept((4, 12), torch.ones(12), 6, 6, 0.2, True, False)
    values = quantize_columns(weight, columns, factor)
    error = (weight - values)[:, :6].double()
    h = h.double()
    answer = error @ h[:6, 6:] @ torch.linalg.inv(h[6:, 6:])
    torch.testing.assert_close(
        seen[6].double(), weight[:, 6:].double() + answer, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("columns", "part", "most"), [(128, 0.383, 49), (128, 0, 0), (3, 0.1, 1), (8, 1, 8)]
)
def test_how_many_columns_may_be_salient(columns, part, most):
    assert most_salient_columns(columns, part) == most
