"""A round's pass over a linear against losses and gradients from their definitions."""

import pytest
import torch

from crvq.vq import codebook_solve
from crvq.vq.additive_code import coded_linear, in_coded_order
from crvq.vq.improve_codes import evaluate, improve_codes, prepare
from tests.vq.coded_examples import naive_loss, naive_row_loss, random_linear


def shuffled(seed=0, importance=1.0):
    """A linear whose channels are coded in some other order than they lie in."""
    linear, codebooks = random_linear(40, 12, 4, (12, 3), (32, 16), seed)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
    other = coded_linear(linear.weight, linear.hessian, order, [12, 3], linear.code.scales)
    other.code.codes = linear.code.codes
    other.importance = importance
    return other, codebooks


def test_coded_order_keeps_weight_hessian_and_code():
    linear, codebooks = shuffled()
    ordered = in_coded_order(linear)
    assert ordered.code is linear.code
    assert naive_loss(ordered, codebooks) == pytest.approx(naive_loss(linear, codebooks), rel=1e-5)
    assert in_coded_order(ordered) is ordered


def test_loss_and_gradient_are_those_of_the_definitions():
    linear, codebooks = shuffled(importance=3.0)
    prepared = prepare(linear)
    assert prepared.energy == pytest.approx(linear.energy, rel=1e-5)
    found = evaluate(prepared, codebooks)
    assert found.loss == pytest.approx(naive_loss(linear, codebooks), rel=1e-4)
    entries = [codebook.double().requires_grad_() for codebook in codebooks]
    parts = [e[c] for e, c in zip(entries, linear.code.codes, strict=True)]
    decoded = parts[0].clone()
    decoded[:, :3] += parts[1]
    scaled = decoded.flatten(1) * linear.code.scales[:, None].double()
    error = linear.weight[:, linear.order].double() - scaled
    matrix = linear.hessian.matrix[linear.order][:, linear.order].double()
    (3.0 * ((error @ matrix) * error).sum()).backward()
    expected = -0.5 * torch.cat([e.grad for e in entries])
    torch.testing.assert_close(found.gradient.double(), expected, rtol=1e-4, atol=1e-3)


def test_the_pass_leaves_the_loss_and_gradient_of_its_codes():
    linear, codebooks = shuffled(1)
    before = [naive_row_loss(linear, codebooks, row) for row in range(40)]
    found = improve_codes(prepare(linear), codebooks, last=False)
    after = [naive_row_loss(linear, codebooks, row) for row in range(40)]
    assert all(b <= a * (1 + 1e-5) + 1e-6 for a, b in zip(before, after, strict=True))
    assert found.loss == pytest.approx(sum(after), rel=1e-4)
    again = codebook_solve._sum_by_entry([linear], codebooks, of_error=True)
    torch.testing.assert_close(found.gradient, again, rtol=1e-3, atol=1e-3)


def test_the_last_pass_tells_the_loss_of_scales_that_float16_holds():
    linear, codebooks = shuffled(2)
    found = improve_codes(prepare(linear), codebooks, last=True)
    scales = linear.code.scales
    assert torch.equal(scales, scales.half().float())
    assert found.loss == pytest.approx(naive_loss(linear, codebooks), rel=1e-4)
