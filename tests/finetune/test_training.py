import math

import pytest
import torch

from crvq.config.finetune import TrainingConfig
from crvq.finetune.free_values import FreeValues, norm_parameters
from crvq.finetune.training import Training

ALL = ("codebooks", "scales", "norms")


@pytest.fixture
def task(toy):
    """A toy block that is to give a full-precision block's outputs, and its training."""

    def build(steps=40, every=10, **settings):
        block, linears = toy()
        free = FreeValues(linears, norm_parameters(block), ALL, True)
        wanted, _ = toy(seed=5)
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(6, 8, 6, generator=generator)
        with torch.no_grad():
            targets = wanted(hidden)
        config = TrainingConfig(**{"learning_rate": 0.02, "epochs": 1, **settings})
        training = Training(free, config, steps, every, 4, "toy")

        def loss(batch):
            return (block(hidden[batch]) - targets[batch]).square().mean()

        def losses(step):
            return [lambda: loss(step % 4)]

        @torch.no_grad()
        def validate():
            return float(loss(4) + loss(5)) / 2

        return block, free, training, losses, validate

    return build


def state_of(block):
    return {name: value.clone() for name, value in block.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_the_best_is_in_the_model(task):
    _block, _free, training, losses, validate = task()
    summary = training.run(losses, validate)
    points = [point.validation_loss for point in training.state.points]
    assert [point.step for point in training.state.points] == [0, 10, 20, 30, 40]
    assert summary.best_loss == min(points) < 0.9 * points[0] == 0.9 * summary.first_loss
    assert validate() == summary.best_loss
    assert summary.steps == 40
    assert training.state.points[-1].epoch == 10


def test_a_training_that_only_harms_leaves_the_start(task):
    """A learning rate far too high: nothing is kept, and the model is as it was, bit for bit."""
    block, _free, training, losses, validate = task(learning_rate=10.0, warmup=0.0)
    before = state_of(block)
    summary = training.run(losses, validate)
    assert summary.best_step == 0
    assert summary.best_loss == summary.first_loss
    assert training.state.best is None
    assert all(p.validation_loss > summary.first_loss for p in training.state.points[1:])
    assert same(state_of(block), before)


def test_an_intermediate_best_is_kept(task):
    """First down, then far away: what is kept is from the turning point."""
    _block, _free, training, losses, validate = task(
        steps=40, learning_rate=0.02, schedule="constant"
    )

    def spoilt(step):
        parts = losses(step)
        return parts if step < 20 else [lambda: -50 * parts[0]()]

    summary = training.run(spoilt, validate)
    assert summary.best_step == 20
    assert validate() == summary.best_loss < summary.first_loss


def test_a_tiny_rate_changes_nothing_that_is_stored(task):
    _block, free, training, losses, validate = task(learning_rate=1e-9)
    before = free.snapshot(free.stored()).weights
    training.run(losses, validate)
    after = free.snapshot(free.stored()).weights
    for name, weight in after.items():
        assert torch.equal(weight.dequantize(), before[name].dequantize())


def test_patience_ends_a_training_without_gain(task):
    *_, training, losses, validate = task(learning_rate=10.0, warmup=0.0, patience=2)
    summary = training.run(losses, validate)
    assert (summary.steps, summary.stopped) == (20, "no gain")


def test_parts_of_a_step_are_averaged(task):
    """Two equal parts are as one. Adam hardly minds how long gradients are: they are looked at."""
    seen = []
    for times in (1, 2):
        _block, free, training, losses, validate = task(steps=1)

        def taken(free=free):
            seen.append([leaf.free.grad.clone() for leaf in free.leaves.values()])

        training.optimizer.step = taken
        training.run(lambda step, losses=losses, times=times: losses(step) * times, validate)
    for once, twice in zip(*seen, strict=True):
        assert bool(once.any())
        torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_steps_that_are_not_finite_are_skipped_whole(task, broken):
    _block, _free, training, losses, validate = task(steps=20, max_skipped=5)
    moments = []

    def sometimes(step):
        sound = losses(step)[0]
        if step % 5 != 2:
            return [sound]
        if broken == "loss":
            return [sound, lambda: sound() * math.nan]
        return [sound, lambda: (sound() - sound()).sqrt()]  # 0, with an infinite derivative

    def watch(state):
        moments.append(
            [torch.isfinite(one["exp_avg"]).all() for one in training.optimizer.state.values()]
        )

    summary = training.run(sometimes, validate, watch)
    assert summary.skipped == 4
    assert summary.stopped == "done"
    assert summary.best_loss < summary.first_loss
    assert all(all(each) for each in moments)


def test_too_many_skipped_steps_end_it_with_the_best(task):
    _block, _, training, losses, validate = task(steps=40, every=2, max_skipped=3)

    def broken(step):
        return losses(step) if step < 6 else [lambda: losses(step)[0]() * math.nan]

    summary = training.run(broken, validate)
    assert (summary.stopped, summary.skipped) == ("not finite", 4)
    assert summary.best_step == 6
    assert validate() == summary.best_loss < summary.first_loss


def test_rates_of_kinds_are_factors(task):
    """With no learning rate to speak of for scales and norms, only codebooks move."""
    *_, free, training, losses, validate = task(scale_rate=1e-9, norm_rate=1e-9)
    before = free.values()
    training.run(losses, validate)
    for name, leaf in free.leaves.items():
        moved = float((leaf.value - before[name]).abs().max())
        assert (moved > 1e-3) == (leaf.kind == "codebooks"), name
