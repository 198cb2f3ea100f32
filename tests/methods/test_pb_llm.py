import pytest
import torch

from crvq.methods.pb_llm import PbLlmParams
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


@pytest.mark.parametrize("group_size", [8, None])
@pytest.mark.parametrize("salient_ratio", [0, 0.01, 0.1, 1])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_told_is_what_is_stored(in_features, salient_ratio, group_size):
    linear = random_linear(in_features=in_features)
    params = {"salient_ratio": salient_ratio, "group_size": group_size}
    result = quantize("pb_llm", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("pb_llm", linear, **params)


def test_more_salient_weights_lose_less():
    linear = random_linear(48, 32)
    losses = [
        quantize("pb_llm", linear, salient_ratio=ratio).relative_loss for ratio in (0, 0.1, 0.5, 1)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3


def test_the_costliest_weights_are_a_better_choice_than_the_largest():
    """Where channels differ in size, as these do."""
    linear = random_linear(48, 32)
    by_size, by_cost = (
        quantize("pb_llm", linear, salient_metric=metric) for metric in ("magnitude", "hessian")
    )
    assert by_cost.relative_loss < by_size.relative_loss
    size = linear.weight.abs()
    salient = by_size.weight.salient
    assert float(size[salient].min()) >= float(size[~salient].max())


def test_zero_weights_and_dead_channels():
    h = second_moment(32)
    h[:5], h[:, :5] = 0, 0
    linear = random_linear(hessian=Hessian(h))
    result = quantize("pb_llm", linear, salient_metric="hessian")
    check_result(result)
    linear.weight.zero_()
    assert not quantize("pb_llm", linear).weight.dequantize().any()


def test_damping_that_had_to_grow_is_told():
    linear = random_linear(in_features=16, hessian=Hessian(torch.ones(16, 16)))
    result = quantize("pb_llm", linear, damping=0.0)
    assert any(note.startswith("damping grew from 0 to") for note in result.notes)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"salient_ratio": -0.1}, "greater than or equal to 0"),
        ({"salient_bits": 9}, "less than or equal to 8"),
        ({"salient_metric": "size"}, "'magnitude' or 'hessian'"),
        ({"group_size": 0}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        PbLlmParams(**params)
