import pytest
import torch

from crvq.errors import QuantizationError
from crvq.methods.billm import BillmParams
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


@pytest.mark.parametrize("centres", [False, True])
@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("block_size", [8, 12, None])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_told_is_what_is_stored(in_features, block_size, splitting, centres):
    linear = random_linear(in_features=in_features)
    params = {"block_size": block_size, "splitting": splitting, "centres": centres}
    result = quantize("billm", linear, **params)
    check_result(result)
    planned = planned_bits("billm", linear, **params)
    assert result.weight.bits().total <= planned.total
    assert result.weight.bits().scales == planned.scales


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("in_features", [32, 30])
def test_planned_bits_are_exact_where_every_block_has_as_many_salient_columns(
    in_features, splitting
):
    linear = random_linear(in_features=in_features)
    params = {"block_size": 8, "most_salient": 0.125, "splitting": splitting}
    result = quantize("billm", linear, **params)
    assert int(result.weight.salient.sum()) == 4
    assert result.weight.bits() == planned_bits("billm", linear, **params)


def test_answering_errors_column_by_column_beats_block_by_block():
    linear = random_linear(48, 32)
    losses = [
        quantize("billm", linear, block_size=32, feedback_columns=width).relative_loss
        for width in (1, 8, 32)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.9 * losses[2]


def test_splitting_and_salient_columns_help():
    linear = random_linear(48, 32)
    full = quantize("billm", linear, block_size=16).relative_loss
    assert full < 0.9 * quantize("billm", linear, block_size=16, splitting=False).relative_loss
    assert full < quantize("billm", linear, block_size=16, most_salient=0).relative_loss


@pytest.mark.parametrize("most_salient", [0.0, 1.0])
def test_no_column_and_every_column_may_be_salient(most_salient):
    linear = random_linear()
    result = quantize("billm", linear, block_size=1, most_salient=most_salient)
    check_result(result)
    assert int(result.weight.salient.sum()) == 32 * most_salient


def test_zero_weights_and_dead_channels():
    h = second_moment(32)
    h[:5], h[:, :5] = 0, 0
    linear = random_linear(hessian=Hessian(h))
    linear.weight[3] = 0
    result = quantize("billm", linear, block_size=8, centres=False)
    check_result(result)
    assert any(note.startswith("5 dead channels") for note in result.notes)
    linear.weight.zero_()
    assert not quantize("billm", linear, block_size=8).weight.dequantize().any()


def test_damping_that_had_to_grow_is_told_and_what_it_cannot_mend_has_the_linears_name():
    linear = random_linear(in_features=16, hessian=Hessian(torch.ones(16, 16)))
    result = quantize("billm", linear, damping=0.0)
    assert any(note.startswith("damping grew from 0 to") for note in result.notes)
    hopeless = torch.eye(16)
    hopeless[0, 1] = hopeless[1, 0] = 5.0
    linear = random_linear(in_features=16, hessian=Hessian(hopeless))
    with pytest.raises(
        QuantizationError, match=r"layers\.0\.mlp\.up_proj: .*not positive definite"
    ):
        quantize("billm", linear)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_size": 0}, "greater than or equal to 1"),
        ({"feedback_columns": 0}, "greater than or equal to 1"),
        ({"most_salient": 1.5}, "less than or equal to 1"),
        ({"damping": 2}, "less than or equal to 1"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        BillmParams(**params)


def test_the_hottest_columns_are_salient():
    diag_h = torch.ones(32)
    diag_h[[3, 17]] = 1000.0
    linear = random_linear(hessian=Hessian(diag_h.diag()))
    result = quantize("billm", linear, block_size=16, most_salient=0.1)
    assert result.weight.salient.nonzero()[:, 0].tolist() == [3, 17]
