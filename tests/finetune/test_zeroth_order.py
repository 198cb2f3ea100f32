"""Zeroth-order steps: against autograd, and the same again from a seed."""

import pytest
import torch

from crvq.config.finetune import CodesConfig, TrainingConfig, ZerothOrderConfig
from crvq.finetune.free_values import FreeValues, norm_parameters
from crvq.finetune.training import Training
from crvq.finetune.zeroth_order import ZerothOrder


@pytest.fixture
def task(toy):
    """A toy block, what is free in it, and the loss of a step's two parts."""

    def build(kinds=("codebooks", "scales", "norms")):
        block, linears = toy()
        free = FreeValues(linears, norm_parameters(block), kinds, True)
        wanted, _ = toy(seed=5)
        hidden = torch.randn(6, 8, 6, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            targets = wanted(hidden)

        def loss(batch):
            return (block(hidden[batch]) - targets[batch]).square().mean()

        def losses(step):
            return [lambda: loss(step % 4), lambda: loss((step + 1) % 4)]

        return block, free, losses, loss

    return build


def by_autograd(free, losses):
    """The gradient of the mean over a step's parts."""
    free.write(free.values())
    with free.gradients():
        for part in losses(0):
            part().backward()
    found = {name: leaf.free.grad / 2 for name, leaf in free.leaves.items()}
    for leaf in free.leaves.values():
        leaf.free.grad = None
    return found


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).double()


def test_one_direction_gives_the_slope_along_it(task):
    _, free, losses, _ = task()
    gradient = flat(by_autograd(free, losses))
    before = free.values()
    ZerothOrder(free, ZerothOrderConfig(distance=1e-2), seed=3).estimate(0, losses)
    estimate = flat({name: leaf.free.grad for name, leaf in free.leaves.items()})
    # The estimate is the slope times the direction: their product is the slope's square times d.
    generator = torch.Generator().manual_seed(3)
    direction = flat(
        {n: torch.randn(leaf.free.shape, generator=generator) for n, leaf in free.leaves.items()}
    )
    slope = float(estimate @ direction / (direction @ direction))
    assert torch.allclose(estimate, slope * direction, atol=1e-6)
    assert slope == pytest.approx(float(gradient @ direction), rel=0.02)
    assert all(torch.equal(value, before[name]) for name, value in free.values().items())


def test_its_mean_is_the_gradient_of_autograd(task):
    _, free, losses, _ = task(("scales",))
    gradient = flat(by_autograd(free, losses))
    config = ZerothOrderConfig(distance=1e-3, directions=600)
    ZerothOrder(free, config, seed=0).estimate(0, losses)
    estimate = flat({name: leaf.free.grad for name, leaf in free.leaves.items()})
    # With n directions, a value's error has a deviation of |g| sqrt((1 + g_i²/|g|²) / n).
    deviation = gradient.norm() * (2 / config.directions) ** 0.5
    assert float((estimate - gradient).abs().max()) < 4 * deviation
    assert float(torch.cosine_similarity(estimate, gradient, dim=0)) > 0.95


def trained(task, seed=0, steps=150, rate=0.02):
    _, free, losses, loss = task()
    config = TrainingConfig(
        learning_rate=rate, epochs=1, zeroth_order=ZerothOrderConfig(directions=2), warmup=0
    )
    training = Training(free, config, steps, 10, 4, "toy", seed=seed)
    with torch.no_grad():
        summary = training.run(losses, lambda: float(loss(4) + loss(5)) / 2)
    return summary, free.values()


def test_the_loss_falls_without_any_graph_and_one_seed_gives_one_result(task, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", None)
    summary, values = trained(task)
    assert summary.best_loss < 0.9 * summary.first_loss
    again, same = trained(task)
    assert again.best_loss == summary.best_loss
    assert all(torch.equal(values[name], same[name]) for name in values)
    _, other = trained(task, seed=1)
    assert not all(torch.equal(values[name], other[name]) for name in values)


def test_a_step_that_is_not_finite_is_skipped(task):
    _, free, _losses, _ = task()
    config = TrainingConfig(learning_rate=0.1, epochs=1, zeroth_order={}, max_skipped=2)
    training = Training(free, config, 10, 10, 4, "toy")
    before = free.values()
    broken = [lambda: torch.tensor(torch.nan)]
    summary = training.run(lambda step: broken, lambda: 1.0)
    assert (summary.skipped, summary.stopped) == (3, "not finite")
    assert all(torch.equal(value, before[name]) for name, value in free.values().items())


def test_codes_cannot_follow():
    with pytest.raises(ValueError, match="codes and zeroth_order are both set"):
        TrainingConfig(learning_rate=1, epochs=1, zeroth_order={}, codes=CodesConfig())
