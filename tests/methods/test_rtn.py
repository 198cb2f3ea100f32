import pytest
import torch

from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("group_size", [8, None])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_told_is_what_is_stored(in_features, group_size, bits):
    linear = random_linear(in_features=in_features)
    result = quantize("rtn", linear, bits=bits, group_size=group_size)
    check_result(result)
    assert result.weight.bits() == planned_bits("rtn", linear, bits=bits, group_size=group_size)


def test_activations_do_not_matter():
    one = quantize("rtn", random_linear())
    other = quantize("rtn", random_linear(hessian=Hessian(torch.eye(32))))
    assert torch.equal(one.weight.codes, other.weight.codes)
    assert one.relative_loss != other.relative_loss


def test_every_bit_quarters_the_squared_error():
    linear = random_linear(64, 64)
    errors = [
        float((linear.weight - quantize("rtn", linear, bits=b).weight.dequantize()).square().mean())
        for b in (4, 5, 6)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)
