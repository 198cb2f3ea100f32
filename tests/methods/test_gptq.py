import pytest
import torch

from crvq.methods.gptq import GptqParams
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear, relative_loss, second_moment
from tests.methods.method_checks import check_result, make, planned_bits, quantize


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [8, 100, None])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_told_is_what_is_stored(in_features, group_size, act_order):
    linear = random_linear(in_features=in_features)
    params = {"bits": 3, "group_size": group_size, "act_order": act_order}
    result = quantize("gptq", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("gptq", linear, **params)
    assert (result.weight.bits().permutation > 0) == act_order


def test_act_order_starts_with_the_hottest_channel_and_stores_where_it_was():
    linear = random_linear()
    order = quantize("gptq", linear, act_order=True).weight.order
    diag_h = linear.hessian.matrix.diagonal()[order]
    assert torch.equal(diag_h, diag_h.sort(descending=True).values)


def test_feedback_beats_rtn():
    linear = random_linear(48, 32)
    assert (
        quantize("gptq", linear, bits=3).relative_loss
        < 0.8 * quantize("rtn", linear, bits=3).relative_loss
    )


def test_damping_is_heeded():
    linear = random_linear()
    soft, hard = (quantize("gptq", linear, damping=d).weight.codes for d in (1e-4, 1.0))
    assert not torch.equal(soft, hard)


def test_damping_that_had_to_grow_is_told():
    rank_one = torch.ones(16, 16)
    linear = random_linear(in_features=16, hessian=Hessian(rank_one))
    result = quantize("gptq", linear, damping=0.0)
    assert any(note.startswith("damping grew from 0 to") for note in result.notes)
    assert not quantize("gptq", linear, damping=0.01).notes


def test_dead_channels_and_zero_rows():
    h = second_moment(32)
    h[:5], h[:, :5] = 0, 0
    linear = random_linear(hessian=Hessian(h))
    linear.weight[3] = 0
    result = quantize("gptq", linear)
    check_result(result)
    assert any(note.startswith("5 dead channels") for note in result.notes)
    assert not result.weight.dequantize()[3].any()


def test_shared_or_copied_hessian_and_company_change_nothing():
    shared = Hessian(second_moment(32))
    one, other = (random_linear(seed=s, hessian=shared) for s in (1, 2))
    _, together = make("gptq").quantize_block(0, [one, other])
    (alone,) = make("gptq").quantize_block(3, [other])
    assert torch.equal(together.weight.codes, alone.weight.codes)
    assert relative_loss(other, together.weight.dequantize()) < 0.2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 0}, "greater than or equal to 1"),
        ({"bits": 9}, "less than or equal to 8"),
        ({"group_size": 0}, "greater than or equal to 1"),
        ({"damping": 2}, "less than or equal to 1"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        GptqParams(**params)
