"""Random probes: their mean squared gradients are the diagonal of the loss's Hessian."""

import pytest
import torch

from crvq.finetune.block import block_loss, block_probe
from crvq.finetune.losses import exact_kl, kl_probe, sliced_kl

DRAWS = 3000


def mean_square(weight, probe):
    total = torch.zeros_like(weight)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        (gradient,) = torch.autograd.grad(probe(generator), weight)
        total += gradient.square()
    return total / DRAWS


@pytest.mark.parametrize("loss", ["mse", "token_relative"])
def test_of_a_block(loss):
    """Outputs are linear in the weight, so the Gauss-Newton matrix is the Hessian."""
    torch.manual_seed(0)
    hidden, targets = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    weight = torch.randn(5, 4, requires_grad=True)

    def measured(value):
        return block_loss(loss, hidden @ value.T, targets, energy=0.7)

    def probe(generator):
        return block_probe(loss, hidden @ weight.T, targets, 0.7, generator)

    hessian = torch.autograd.functional.hessian(measured, weight).flatten(2).flatten(0, 1)
    found = mean_square(weight, probe)
    torch.testing.assert_close(found.flatten(), hessian.diag(), rtol=0.15, atol=1e-3)


def test_of_a_whole_model():
    """Where the student is as good as its teacher, the Hessian of KL is the Fisher matrix."""
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 4), torch.randn(7, 5)
    weight = torch.randn(5, 4, requires_grad=True)
    teacher = (hidden @ weight.T @ head.T).detach()

    def measured(value):
        return exact_kl(teacher, hidden @ value.T @ head.T) / len(hidden)

    def probe(generator):
        return kl_probe(hidden @ weight.T, lambda states: states @ head.T, generator)

    hessian = torch.autograd.functional.hessian(measured, weight).flatten(2).flatten(0, 1)
    found = mean_square(weight, probe)
    torch.testing.assert_close(found.flatten(), hessian.diag(), rtol=0.2, atol=2e-3)
    loss = sliced_kl(hidden @ weight.T, lambda s: s @ head.T, lambda p, x: exact_kl(teacher[p], x))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
