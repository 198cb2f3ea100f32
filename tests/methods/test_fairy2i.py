"""Fairy2i: complex arithmetic, all phases tried, and least squares by autograd."""

import itertools

import pytest
import torch

from crvq.vq.widely_linear import (
    fit_phase_scales,
    nearest_phases,
    phase_values,
    to_complex,
    to_real,
)
from crvq.weights.complex_phases import ComplexPhasesWeight
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize

PHASES = (1, 1j, -1, -1j)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def phases_weight(out=5, columns=7, stages=2):
    draw_ = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (stages, 2, 3, 4), generator=draw_)
    return ComplexPhasesWeight(out, columns, codes, draw(stages, 2, 3, 2).half().float())


def test_the_complex_form_does_what_the_real_matrix_does():
    weight, x = draw(6, 8).double(), draw(8, seed=1).double()
    u, v = to_complex(weight)
    z = torch.complex(x[:4], x[4:])
    y = u @ z + v @ z.conj()
    torch.testing.assert_close(torch.cat([y.real, y.imag]), weight @ x)
    torch.testing.assert_close(to_real(to_complex(weight)), weight)


def test_phases_are_the_nearest_of_all_and_scales_the_best_for_them():
    pair = to_complex(draw(6, 8))
    codes, scales = nearest_phases(pair)
    for place in itertools.product(range(2), range(3), range(4)):
        angles = [float((pair[place].conj() * phase).real) for phase in PHASES]
        assert int(codes[place]) == angles.index(max(angles))
    free = scales.double().requires_grad_()
    loss = (pair - phase_values(codes[None], free[None])).abs().square().sum()
    assert float(torch.autograd.grad(loss, free)[0].abs().max()) < 1e-5


def test_a_weight_decodes_by_its_definition():
    weight = phases_weight()
    pair = torch.zeros(2, 3, 4, dtype=torch.complex64)
    for stage, which, o, j in itertools.product(range(2), range(2), range(3), range(4)):
        code = int(weight.codes[stage, which, o, j])
        pair[which, o, j] += PHASES[code] * weight.scales[stage, which, o, code % 2]
    torch.testing.assert_close(weight.dequantize(), to_real(pair)[:5, :7])
    assert (weight.bits().codes, weight.bits().scales) == (2 * 48, 16 * 24)
    assert weight.bits_as_published() == 70


def test_fitted_scales_have_no_gradient_left():
    weight, h = draw(6, 8), second_moment(8)
    codes = torch.stack([nearest_phases(to_complex(draw(6, 8, seed=s)))[0] for s in (0, 1)])
    fitted = fit_phase_scales(weight, codes, h, torch.zeros(2, 2, 3, 2))
    free = fitted.double().requires_grad_()
    error = weight - to_real(phase_values(codes, free))
    loss = ((error @ h.double()) * error).sum()
    size = float((weight.double() @ h.double()).abs().max())
    assert float(torch.autograd.grad(loss, free)[0].abs().max()) < 1e-2 * size


@pytest.mark.parametrize("shape", [(24, 32), (23, 31), (1, 1)])
@pytest.mark.parametrize("params", [{"stages": 1}, {"stages": 3}, {"fit_scales": False}], ids=str)
def test_what_is_reported_is_what_is_stored(shape, params):
    linear = random_linear(*shape)
    result = quantize("fairy2i", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("fairy2i", linear, **params)


def test_stages_and_fitting_lose_less():
    linear = random_linear()
    losses = [quantize("fairy2i", linear, stages=one).relative_loss for one in (1, 2, 3)]
    assert losses[0] > 1.5 * losses[1] > 2.25 * losses[2]
    assert losses[1] < quantize("fairy2i", linear, fit_scales=False).relative_loss
