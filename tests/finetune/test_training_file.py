import pytest
import torch

from crvq.config.finetune import CodesConfig, TrainingConfig, ZerothOrderConfig
from crvq.finetune.block import block_probe
from crvq.finetune.free_values import FreeValues, norm_parameters
from crvq.finetune.training import Training
from crvq.finetune.training_file import (
    load_training,
    previous_state,
    save_training,
)


class PowerCutError(BaseException):
    pass


CODES = CodesConfig(rule="newton", max_change=0.1, period=2)
STRAIGHT_THROUGH = CodesConfig(
    rule="straight_through", learning_rate=0.05, max_change=0.1, period=2
)


@pytest.fixture
def fresh(toy):
    """The same training again, as a new process would make it."""

    def build(codes=None, zeroth_order=None, **toys):
        block, linears = toy(**toys)
        kinds = ("codebooks", "scales", "norms")
        free = FreeValues(linears, norm_parameters(block), kinds, True, codes=codes is not None)
        hidden = torch.randn(6, 8, 6, generator=torch.Generator().manual_seed(0))
        config = TrainingConfig(
            learning_rate=0.02, epochs=1, codes=codes, zeroth_order=zeroth_order
        )
        training = Training(free, config, 30, 7, 4, "toy")

        def losses(step):
            return [lambda: (block(hidden[step % 4]) - hidden[step % 4].flip(0)).square().mean()]

        @torch.no_grad()
        def validate():
            return float((block(hidden[5]) - hidden[5].flip(0)).square().mean())

        def probe(step):
            signs = torch.Generator().manual_seed(step)
            outputs = block(hidden[step % 4])
            return block_probe("mse", outputs, hidden[step % 4].flip(0), 1.0, signs)

        run = training.run
        training.run = lambda losses, validate, *rest: run(losses, validate, *rest, probe=probe)
        return free, training, losses, validate

    return build


@pytest.mark.parametrize("cut", [3, 7, 10, 29])
@pytest.mark.parametrize("zeroth_order", [None, ZerothOrderConfig(directions=2)])
def test_a_cut_training_ends_as_the_uninterrupted_one(fresh, tmp_path, cut, zeroth_order):
    free, training, losses, validate = fresh(zeroth_order=zeroth_order)
    training.run(losses, validate)
    whole, points = free.values(), training.state.points

    path = tmp_path / "state.safetensors"
    free, training, losses, validate = fresh(zeroth_order=zeroth_order)

    def power_cut(state):
        save_training(path, training, free, "one")
        if state.step == cut:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        training.run(losses, validate, power_cut)
    free, training, losses, validate = fresh(zeroth_order=zeroth_order)
    assert load_training(path, training, free, "one").resumed
    assert training.state.step == cut
    summary = training.run(losses, validate)
    assert summary.steps == 30
    for name, value in free.values().items():
        assert torch.equal(value, whole[name]), name

    def timeless(point):
        return {**vars(point), "seconds": 0}

    assert [timeless(p) for p in training.state.points] == [timeless(p) for p in points]


@pytest.mark.parametrize("cut", [3, 8, 14, 29])
@pytest.mark.parametrize(
    ("codes", "toys"),
    [(CODES, {}), (CODES, {"dtype": "int8", "shared": True}), (STRAIGHT_THROUGH, {})],
)
def test_a_cut_training_of_codes_ends_as_the_uninterrupted_one(fresh, tmp_path, cut, codes, toys):
    free, training, losses, validate = fresh(codes, **toys)
    whole = training.run(losses, validate)
    best, ended_codes = training.state.best, free.coded_weights()
    ended, buffers = validate(), training.codes.buffers
    assert whole.best_step > 0
    assert whole.changed_codes > 0

    path = tmp_path / "state.safetensors"
    free, training, losses, validate = fresh(codes, **toys)

    def power_cut(state):
        save_training(path, training, free, "one")
        if state.step == cut:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        training.run(losses, validate, power_cut)
    free, training, losses, validate = fresh(codes, **toys)
    assert load_training(path, training, free, "one").resumed
    again = training.run(losses, validate)
    assert {**vars(again), "seconds": 0} == {**vars(whole), "seconds": 0}
    assert validate() == ended == whole.best_loss
    assert_same_weights(training.state.best.weights, best.weights)
    assert_same_weights(free.coded_weights(), ended_codes)
    for name, buffer in training.codes.buffers.items():
        assert buffer.updates == buffers[name].updates
        for part in ("wish", "rows", "columns"):
            assert torch.equal(getattr(buffer, part), getattr(buffers[name], part)), (name, part)


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.header() == theirs[name].header()
        values = theirs[name].values()
        for part, value in weight.values().items():
            assert torch.equal(value, values[part]), (name, part)


def test_a_state_without_codes_is_no_start_for_a_training_of_codes(fresh, tmp_path):
    path = tmp_path / "state.safetensors"
    free, training, losses, validate = fresh()
    training.run(losses, validate, lambda state: save_training(path, training, free, "one"))
    free, training, _, _ = fresh(CODES)
    assert not load_training(path, training, free, "one").resumed
    assert training.state.step == 0


def test_a_finished_training_is_not_trained_again(fresh, tmp_path):
    free, training, losses, validate = fresh()
    path = tmp_path / "state.safetensors"
    summary = training.run(losses, validate, lambda state: save_training(path, training, free, "x"))
    best = validate()
    free, training, _, validate = fresh()
    assert load_training(path, training, free, "x").resumed
    again = training.run(lambda step: pytest.fail("a step was taken"), validate)
    assert (again.steps, again.best_loss) == (summary.steps, summary.best_loss)
    assert validate() == best


def test_another_trainings_state_is_left_alone(fresh, tmp_path):
    free, training, losses, validate = fresh()
    path = tmp_path / "state.safetensors"
    assert not load_training(path, training, free, "one").resumed
    training.run(losses, validate, lambda state: save_training(path, training, free, "other"))
    free, training, losses, validate = fresh()
    before = free.values()
    assert not load_training(path, training, free, "one").resumed
    for file in (path, previous_state(path)):
        file.write_bytes(file.read_bytes()[:-9])
    assert not load_training(path, training, free, "other").resumed
    assert training.state.step == 0
    assert all(torch.equal(value, before[name]) for name, value in free.values().items())


@pytest.fixture
def saved(fresh, tmp_path):
    """The file of a training that was cut after ten steps; the one before it is of step nine."""
    path = tmp_path / "state.safetensors"
    free, training, losses, validate = fresh()

    def power_cut(state):
        save_training(path, training, free, "one")
        if state.step == 10:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        training.run(losses, validate, power_cut)
    return path


def test_no_changed_byte_is_trained_on(fresh, saved):
    content = saved.read_bytes()
    free, training, _, _ = fresh()
    for place in range(0, len(content), 37):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        found = load_training(saved, training, free, "one")
        assert found.resumed
        assert "resumes from the state before it, step 9" in found.message


def test_a_training_with_a_damaged_state_ends_as_the_uninterrupted_one(fresh, saved):
    free, training, losses, validate = fresh()
    training.run(losses, validate)
    whole = free.values()
    for harm in (lambda: saved.write_bytes(b""), lambda: previous_state(saved).write_bytes(b"x")):
        harm()
        free, training, losses, validate = fresh()
        found = load_training(saved, training, free, "one")
        training.run(losses, validate)
        for name, value in free.values().items():
            assert torch.equal(value, whole[name]), name
    assert not found.resumed
    assert "damaged, so training starts over" in found.message
