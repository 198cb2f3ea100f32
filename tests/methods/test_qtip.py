"""QTIP: its format, feedback against none, and scales that no other beats."""

import pytest
import torch

from crvq.vq.trellis import code_table
from crvq.weights.trellis import TrellisWeight
from tests.methods.linear_examples import random_linear, relative_loss
from tests.methods.method_checks import check_result, planned_bits, quantize


def trellis_weight():
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (2, 2, 256), generator=draw)
    scales = torch.rand(20, generator=draw).half().float() + 0.5
    return TrellisWeight(24, "1mad", 2, 8, codes, scales.half().float())


def test_each_weight_decodes_by_its_definition_and_bits_by_hand():
    weight = trellis_weight()
    for row, column in ((0, 0), (3, 1), (15, 15), (0, 17), (19, 23), (17, 2)):
        tile = weight.codes[column // 16, row // 16].tolist()
        place = row % 16 * 16 + column % 16
        newest = [tile[(place - back) % 256] for back in range(4)]
        state = sum(code << 2 * back for back, code in enumerate(newest))
        expected = float(code_table("1mad", 8)[state] * weight.scales[row])
        assert float(weight.dequantize()[row, column]) == pytest.approx(expected)
    bits = weight.bits()
    assert (bits.codes, bits.scales) == (2 * 4 * 256, 16 * 20)
    assert weight.bits_as_published() == bits.codes


@pytest.mark.parametrize("shape", [(24, 32), (17, 30)])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_what_is_reported_is_what_is_stored(shape, bits):
    linear = random_linear(*shape)
    params = {"bits": bits, "state_bits": 7}
    result = quantize("qtip", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("qtip", linear, **params)


def test_no_other_scale_of_a_row_loses_less():
    linear = random_linear(32, 32)
    weight = quantize("qtip", linear, state_bits=8).weight
    loss = relative_loss(linear, weight.dequantize())
    for factor in (0.98, 1.02):
        scaled = weight.dequantize() * torch.full((32, 1), factor)
        assert relative_loss(linear, scaled) > loss


def test_it_loses_less_than_scalar_codes_of_as_many_bits():
    linear = random_linear(64, 64)
    trellis = quantize("qtip", linear, bits=2, state_bits=10)
    scalar = quantize("gptq", linear, bits=2, group_size=64)
    assert trellis.relative_loss < 0.7 * scalar.relative_loss


def test_a_weight_of_zeros_stays_zero():
    linear = random_linear(16, 16)
    linear.weight[3] = 0
    weight = quantize("qtip", linear, state_bits=6).weight
    assert float(weight.dequantize()[3].abs().max()) == 0
