"""PTQ1.61: decoding by definition, and fitted scales against float64 gradients of the loss."""

import pytest
import torch

from crvq.methods.binary_params import Ptq161Params
from crvq.vq.binary import signed
from crvq.vq.column_signs import fit_column_signs
from crvq.weights import FormatError, unpack_weight
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_weight_decodes_by_its_definition():
    weight = quantize("ptq161", random_linear(6, 20), salient_ratio=0.3).weight
    dense, salient, other = weight.dequantize(), 0, 0
    for column in range(20):
        for row in range(6):
            if weight.salient[column]:
                code = int(weight.codes[row, salient]) - int(weight.zeros[row])
                expected = code * float(weight.steps[row])
            else:
                sign = 1 if weight.signs[row, other] else -1
                expected = sign * float(weight.scales[row]) + float(weight.means[row])
                expected *= float(weight.columns[other])
            assert float(dense[row, column]) == pytest.approx(expected, rel=1e-5)
        salient += int(weight.salient[column])
        other += int(not weight.salient[column])


def test_salient_are_the_columns_with_the_largest_activations():
    linear = random_linear()
    weight = quantize("ptq161", linear, salient_ratio=0.25).weight
    largest = linear.hessian.matrix.diagonal().topk(8).indices
    assert sorted(largest.tolist()) == weight.salient.nonzero()[:, 0].tolist()


def test_fitted_scales_are_stationary_and_answer_errors_of_other_columns():
    """All of the layer's columns take part: gradients by autograd, the formula as it is written."""
    weight, h, signs = draw(5, 12), second_moment(12), signed(draw(5, 9, seed=1) > 0)
    error = torch.cat((0.1 * draw(5, 3, seed=2), weight[:, 3:]), 1)
    start = torch.ones(5), torch.zeros(5), torch.ones(9)

    def loss(scales, means, columns):
        coarse = (scales[:, None] * signs + means[:, None]) * columns
        left = error.double() - torch.cat((torch.zeros(5, 3), coarse), 1)
        return ((left @ h.double()) * left).sum()

    target = (error @ h)[:, 3:]
    losses, fits = [], []
    for iterations in (0, 1, 5, 4000):
        fits.append(fit_column_signs(target, signs, h[3:, 3:], start, iterations))
        losses.append(float(loss(*(part.double() for part in fits[-1]))))
    assert losses == sorted(losses, reverse=True)
    free = [part.double().requires_grad_() for part in fits[-1]]
    first = [part.double().requires_grad_() for part in start]
    before = torch.autograd.grad(loss(*first), first)
    for found, old in zip(torch.autograd.grad(loss(*free), free), before, strict=True):
        assert float(found.norm()) < 0.01 * float(old.norm())


@pytest.mark.parametrize("in_features", [32, 30])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_what_is_reported_is_what_is_stored(in_features, ratio):
    linear = random_linear(in_features=in_features)
    result = quantize("ptq161", linear, salient_ratio=ratio)
    check_result(result)
    assert result.weight.bits() == planned_bits("ptq161", linear, salient_ratio=ratio)


def test_bits_by_hand():
    weight = quantize("ptq161", random_linear(24, 40)).weight
    bits = weight.bits()
    assert weight.bits_as_published() == pytest.approx(1.6 * 24 * 40)
    assert (bits.other, bits.codes) == (40, 24 * (32 + 8 * 4))
    assert bits.scales == 16 * (3 * 24 + 32) + 4 * 24


def test_a_bitmap_that_contradicts_the_header_is_refused():
    weight = quantize("ptq161", random_linear()).weight
    wrong = {**weight.pack(), "salient": torch.zeros(4, dtype=torch.uint8)}
    with pytest.raises(FormatError, match="marks 0 columns, header: 6"):
        unpack_weight(weight.header(), wrong, {})


@pytest.mark.parametrize("params", [{"salient_ratio": 1.1}, {"salient_bits": 0}], ids=str)
def test_parameters_out_of_range_are_refused(params):
    with pytest.raises(ValueError, match=r"less than or equal|greater than or equal"):
        Ptq161Params(**params)
