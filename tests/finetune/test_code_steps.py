"""PV-Tuning: dense gradients, the choice of codes, the bound on changes, and whole trainings."""

import itertools

import pytest
import torch
from torch.func import functional_call

from crvq.config.finetune import CodesConfig, TrainingConfig
from crvq.errors import ConfigError
from crvq.finetune.block import block_probe
from crvq.finetune.code_steps import CodeSteps
from crvq.finetune.free_values import FreeValues, QuantizedSlot, norm_parameters
from crvq.finetune.training import Training
from crvq.vq.additive_code import AdditiveCode
from crvq.vq.storage import load_codebook
from crvq.weights.trainable import trainable
from tests.finetune.conftest import D, quantized

ALL = ("codebooks", "scales", "norms")


def free_values(block, linears, kinds=ALL):
    return FreeValues(linears, norm_parameters(block), kinds, True, codes=True)


def loss_of(outputs):
    return (outputs * torch.linspace(-1, 2, outputs.numel()).view_as(outputs)).tanh().sum()


def test_dense_gradients_are_autograds(toy):
    block, linears = toy()
    free = free_values(block, linears)
    hidden = torch.randn(4, 6)
    with free.gradients():
        for part in hidden.split(1):
            loss_of(block(part)).backward()
    dense = {f"{x.name}.weight": x.weight.dequantize().requires_grad_() for x in linears}
    sum(loss_of(functional_call(block, dense, (part,))) for part in hidden.split(1)).backward()
    taken = dict(free.take_dense_gradients())
    assert taken.keys() == {"up", "down"}
    for name, gradient in taken.items():
        torch.testing.assert_close(gradient, dense[f"{name}.weight"].grad)
    assert not list(free.take_dense_gradients())


def test_the_buffer_follows_a_steady_gradient_by_its_sign(toy):
    """Where |g| is a product of row and column parts, Adam's step is the rate times the sign."""
    block, linears = toy()
    free = free_values(block, linears)
    config = CodesConfig(rule="straight_through", learning_rate=0.1, period=100)
    steps = CodeSteps(free, config)
    generator = torch.Generator().manual_seed(0)
    shape = linears[0].slot.shape
    sizes = torch.rand(shape[0], 1, generator=generator) * torch.rand(shape[1], generator=generator)
    gradient = sizes * torch.randn(shape, generator=generator).sign()
    for _ in range(3):
        free._linears["up"].gradient = 2 * gradient  # of two parts
        steps.follow(2, 0.5)
    size = linears[0].weight.dequantize().square().mean().sqrt()
    expected = -3 * 0.1 * 0.5 * size * gradient.sign()
    torch.testing.assert_close(steps.buffers["up"].wish, expected, atol=1e-5, rtol=1e-3)
    assert not steps.buffers["down"].wish.any()


def test_newton_aims_at_the_minimum_of_the_quadratic_model(toy, monkeypatch):
    """Mean gradient over damped mean square of the probes, and the gradient after the change."""
    block, linears = toy()
    free = free_values(block, linears)
    config = CodesConfig(rule="newton", period=2, damping=3.0)
    steps, beta = CodeSteps(free, config), config.beta
    shape = linears[0].slot.shape
    gradients = [torch.randn(shape) for _ in range(2)]
    probe = (0.8 + 0.2 * torch.rand(shape[0], 1)) * torch.rand(shape[1])
    asked = {}

    def move(name, wish, importance, most, beam):
        asked[name] = (wish, importance)
        return torch.full_like(wish, 0.25)

    monkeypatch.setattr(free, "move_codes", move)
    for number in (1, 2):
        free._linears["up"].gradient = gradients[number - 1].clone()
        steps.follow(1, 1.0)
        assert steps.is_due(number) == (number == 2)
    free._linears["up"].gradient = probe.clone()
    steps.follow_probe()
    assert steps.try_changes(lambda: 0.0)
    assert steps.damping == 1.5
    mean = (beta * gradients[0] + gradients[1]) / (1 + beta)
    hessian = 3.0 * probe.square()
    assert asked.keys() == {"up"}
    torch.testing.assert_close(asked["up"][0], -mean / hessian, rtol=1e-3, atol=1e-5)
    rows, columns = asked["up"][1]
    ratio = rows[:, None] * columns / probe.square()
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=0)
    after = steps.buffers["up"].wish / (1 - beta**2)
    torch.testing.assert_close(after, mean + 0.25 * hessian / 3, rtol=1e-3, atol=1e-5)


def test_newton_takes_back_codes_that_raise_the_loss(toy):
    block, linears = toy()
    free = free_values(block, linears)
    steps = CodeSteps(free, CodesConfig(max_change=0.5))
    for linear in linears:
        free._linears[linear.name].gradient = torch.randn(linear.slot.shape)
    steps.follow(1, 1.0)
    for linear in linears:
        free._linears[linear.name].gradient = torch.full(linear.slot.shape, 0.5)
    steps.follow_probe()
    wishes = {name: buffer.wish.clone() for name, buffer in steps.buffers.items()}
    seen = []

    def rising():
        seen.append(free.changed_codes())
        return float(len(seen))

    assert not steps.try_changes(rising)
    assert seen[0] == 0 < seen[1]
    assert free.changed_codes() == 0
    assert steps.damping == 4 * CodesConfig().damping
    assert all(torch.equal(buffer.wish, wishes[name]) for name, buffer in steps.buffers.items())


def chosen_by_brute_force(weight, target, rows, columns, limit):
    """Codes after the best change of at most ``limit`` groups, all combinations tried."""
    books = [load_codebook(parts).double() for parts in weight.codebooks]
    scales = weight.code.scales.double()
    codes = [one.clone() for one in weight.code.codes]
    moves = []
    for row, group in itertools.product(range(weight.out_features), range(weight.code.groups)):
        channels = weight.order[group * D : (group + 1) * D]
        importance = rows[row].double() * columns[channels].double()
        wanted = target[row, channels].double()
        covering = [k for k in range(2) if group < codes[k].shape[1]]

        def distance(combination, row=row, covering=covering, wanted=wanted, weights=importance):
            value = sum(books[k][code] for k, code in zip(covering, combination, strict=True))
            return float((weights * (wanted - scales[row] * value).square()).sum())

        present = tuple(int(codes[k][row, group]) for k in covering)
        best = min(itertools.product(*[range(len(books[k])) for k in covering]), key=distance)
        moves.append((distance(present) - distance(best), row, group, covering, best))
    for gain, row, group, covering, best in sorted(moves, key=lambda move: -move[0])[:limit]:
        assert gain > 0
        for k, code in zip(covering, best, strict=True):
            codes[k][row, group] = code
    return codes


@pytest.mark.parametrize("limit", [1, 6, 12])
@pytest.mark.parametrize("in_features", [6, 10])
def test_a_code_step_is_what_brute_force_chooses(limit, in_features):
    weight = quantized(8, in_features, seed=3)
    before = [codes.clone() for codes in weight.code.codes]
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(8, in_features, generator=generator)
    rows, columns = torch.rand(8, generator=generator), torch.rand(in_features, generator=generator)
    # Eight times as many groups are searched, the farthest: here the best are among them.
    expected = chosen_by_brute_force(weight, target, rows, columns, limit)
    made = trainable(weight, torch.device("cpu"))
    assert made.move_codes(made.parts, target, (rows, columns), limit, beam=8) == limit
    moved = made.snapshot()
    for ours, theirs in zip(moved.code.codes, expected, strict=True):
        assert torch.equal(ours, theirs)
    # The weight that came is as it was, and the way back from storage is exact.
    assert all(map(torch.equal, weight.code.codes, before))
    assert torch.equal(made.dense(made.parts), moved.dequantize())
    assert made.changed_groups(weight) == limit
    made.load(moved)
    assert made.changed_groups(moved) == 0
    fresh = trainable(moved, torch.device("cpu"))
    gradient = torch.randn(8, in_features, generator=generator)
    for name, found in made.pullback(made.parts, gradient).items():
        assert torch.equal(found, fresh.pullback(fresh.parts, gradient)[name]), name


@pytest.mark.parametrize("share", [1e-6, 0.05, 0.3, 1.0])
def test_a_step_changes_no_more_codes_than_allowed(toy, share):
    block, linears = toy()
    free = free_values(block, linears)
    groups = {x.name: x.weight.code.codes[0].numel() for x in linears}
    for linear in linears:
        weight = free._linears[linear.name].weight
        before = weight.snapshot()
        wish = torch.randn(linear.slot.shape)
        ones = torch.ones(wish.shape[0]), torch.ones(wish.shape[1])
        change = free.move_codes(linear.name, wish, ones, share, 8)
        moved = weight.changed_groups(before)
        assert 1 <= moved <= max(1, int(share * groups[linear.name]))
        assert torch.equal(change, weight.dense(weight.parts) - before.dequantize())
        assert (wish - change).square().sum() < wish.square().sum()
    assert 0 < free.changed_codes() <= max(share, 2 / sum(groups.values()))


@pytest.fixture
def task(toy):
    """A block that is to give its own outputs again after many of its codes were replaced."""

    def build(codes=None, wrong=0.3, steps=60, dtype="float16", shared=False, **settings):
        block, linears = toy(dtype=dtype, shared=shared)
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(6, 32, 6, generator=generator)
        with torch.no_grad():
            targets = block(hidden)
        spoilt = []
        for linear in linears:
            code = linear.weight.code
            lost = torch.rand(code.codes[0].shape, generator=generator) < wrong
            other = torch.randint(0, 8, lost.shape, generator=generator)
            new = [torch.where(lost, other, code.codes[0]), code.codes[1]]
            weight = type(linear.weight)(
                **{**vars(linear.weight), "code": AdditiveCode(new, code.scales)}
            )
            linear.slot.write(weight.dequantize())
            spoilt.append(QuantizedSlot(linear.name, linear.slot, weight))
        config = TrainingConfig(**{"learning_rate": 0.01, "epochs": 1, "codes": codes, **settings})
        free = FreeValues(spoilt, norm_parameters(block), ALL, True, codes=config.codes is not None)
        training = Training(free, config, steps, 10, 4, "toy")

        def loss(batch):
            return (block(hidden[batch]) - targets[batch]).square().mean()

        @torch.no_grad()
        def validate():
            return float(loss(4) + loss(5)) / 2

        def probe(step):
            signs = torch.Generator().manual_seed(step)
            return block_probe("mse", block(hidden[step % 4]), targets[step % 4], 1.0, signs)

        run = training.run
        training.run = lambda losses, validate, *rest: run(losses, validate, *rest, probe=probe)
        return block, free, training, lambda step: [lambda: loss(step % 4)], validate, spoilt

    return build


CODES = {"rule": "straight_through", "learning_rate": 0.05, "max_change": 0.1, "period": 1}


NEWTON = {"rule": "newton", "max_change": 0.1, "period": 2}


@pytest.mark.parametrize("codes", [CODES, NEWTON], ids=["straight_through", "newton"])
def test_wrong_codes_are_mended_where_codebooks_alone_cannot(task, codes):
    *_, training, losses, validate, _ = task()
    fixed = training.run(losses, validate)
    *_, training, losses, validate, _ = task(codes)
    free = training.run(losses, validate)
    assert fixed.first_loss == free.first_loss
    assert free.best_loss < 0.5 * fixed.best_loss
    assert fixed.changed_codes is None
    assert 0 < free.changed_codes < 1
    assert validate() == free.best_loss


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_best_is_restored_with_its_codes(task, dtype, shared):
    """First down, then codes and values are driven away: what is kept is from the turning."""
    block, free, training, losses, validate, spoilt = task(
        CODES, dtype=dtype, shared=shared, schedule="constant"
    )

    def turned(step):
        parts = losses(step)
        return parts if step < 30 else [lambda: -5 * parts[0]()]

    summary = training.run(turned, validate)
    assert 0 < summary.best_step <= 30
    assert validate() == summary.best_loss < summary.first_loss
    best = training.state.best
    for linear in spoilt:
        weight = best.weights[linear.name]
        assert torch.equal(linear.slot.read(), weight.dequantize())
        assert not torch.equal(weight.code.codes[0], linear.weight.code.codes[0])
    assert free.changed_codes() != summary.changed_codes
    shares = [point.changed_codes for point in training.state.points]
    assert shares[0] == 0
    assert shares[summary.best_step // 10] == summary.changed_codes
    if shared:
        up, down = best.weights.values()
        assert torch.equal(load_codebook(up.codebooks[0]), load_codebook(down.codebooks[0]))
    for name, value in best.others.items():
        assert torch.equal(block.get_parameter(name), value.float())


def test_a_training_that_only_harms_leaves_codes_as_they_were(task):
    block, _free, training, losses, validate, _ = task(
        {**CODES, "learning_rate": 10.0, "max_change": 1.0},
        wrong=0.0,
        learning_rate=10.0,
        warmup=0.0,
    )
    before = {name: value.clone() for name, value in block.state_dict().items()}
    summary = training.run(lambda step: [lambda: -losses(step)[0]()], validate)
    assert (summary.best_step, summary.changed_codes) == (0, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_a_skipped_step_leaves_buffers_and_codes(task):
    *_, training, losses, validate, _ = task(CODES, steps=4, max_skipped=9)
    training.run(lambda step: [*losses(step), lambda: losses(step)[0]() * torch.nan], validate)
    assert training.state.skipped == 4
    assert not any(buffer.wish.any() for buffer in training.codes.buffers.values())
    assert not list(training._free.take_dense_gradients())


def test_codes_change_every_period_steps(task):
    *_, free, training, losses, validate, _ = task({**CODES, "period": 3}, steps=6)
    seen = []
    training.run(losses, validate, lambda state: seen.append(free.changed_codes()))
    assert seen[0] == seen[1] == 0 < seen[2] == seen[3] == seen[4]


def test_a_format_without_free_codes_is_refused(toy):
    block, _linears = toy()
    with pytest.raises(ConfigError, match="finetune=block"):
        FreeValues([], norm_parameters(block), ALL, True, codes=True)
