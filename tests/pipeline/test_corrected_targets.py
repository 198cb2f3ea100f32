"""Weights that make up for errors of earlier layers, against least squares in float64."""

import pytest
import torch
from pydantic import ValidationError

from crvq.config.calibration import CalibrationConfig
from crvq.errors import ConfigError
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks, find_slots
from crvq.pipeline.corrected_targets import CorrectedTargets
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from tests.architectures import build, tokens

_DAMPING = 0.01


def inputs_of(block, stream, index, states):
    """Inputs of a block's linear layers for some hidden states, by kind, ``(tokens, in)``."""
    seen = {}
    handles = [
        slot.module.register_forward_pre_hook(
            lambda _, args, kind=slot.kind: seen.setdefault(kind, []).append(
                args[0].flatten(0, -2).double()
            )
        )
        for slot in find_slots(block)
    ]
    with torch.no_grad():
        for batch, hidden in enumerate(states):
            stream.output(index, batch, hidden)
    for handle in handles:
        handle.remove()
    return {kind: torch.cat(parts) for kind, parts in seen.items()}


def behind_errors(name, strength=1.0):
    """A model's second block and its streams, the first one quantized badly."""
    model, batch = build(name), tokens(6, 24)
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, 2, torch.float32)
    targets = CorrectedTargets(stream, strength, _DAMPING)
    wanted = [stream.output(0, place, hidden) for place, hidden in enumerate(stream.hidden)]
    targets.advance(0)
    with torch.no_grad():
        for slot in find_slots(blocks[0]):
            weight = slot.module.weight
            weight.add_(0.3 * weight.std() * torch.randn_like(weight))
    stream.advance(0)
    return blocks[1], stream, targets, wanted


@pytest.mark.parametrize("name", ["Llama", "OPT", "Gemma3"])
def test_moved_weights_are_the_least_squares_solution(name):
    block, stream, targets, states = behind_errors(name)
    wanted = inputs_of(block, stream, 1, states)
    slots = find_slots(block)
    own = {slot.kind: slot.read() for slot in slots}
    targets.move(1, slots, 3)
    # Moving a layer changes nothing before it: each now sees the inputs that it was moved for.
    present = inputs_of(block, stream, 1, stream.hidden)
    for slot in slots:
        x, inputs, weight = wanted[slot.kind], present[slot.kind], own[slot.kind].double()
        # Ridge regression toward W, in float64: min ‖W x - W' x̂‖² + damping ‖W' - W‖².
        second = inputs.T @ inputs
        second.diagonal().add_(_DAMPING * second.diagonal().mean())
        best = weight + torch.linalg.solve(second, (weight @ ((x - inputs).T @ inputs)).T).T
        torch.testing.assert_close(
            slot.read().double(), best, rtol=2e-3, atol=2e-4 * float(best.std())
        )

        def error(w, x=x, inputs=inputs, weight=weight):
            return float((x @ weight.T - inputs @ w.double().T).square().sum())

        assert error(slot.read()) < error(weight)


def test_a_fraction_moves_that_part_of_the_way():
    moved = []
    for strength in (1.0, 0.25):
        torch.manual_seed(1)
        block, _, targets, _ = behind_errors("Llama", strength)
        slots = find_slots(block)
        before = slots[0].read()
        targets.move(1, slots, 3)
        moved.append(slots[0].read() - before)
    torch.testing.assert_close(moved[0] * 0.25, moved[1], rtol=1e-3, atol=1e-6)


def test_equal_inputs_move_nothing():
    model, batch = build("Llama"), tokens(4, 16)
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, 2, torch.float32)
    slots = find_slots(blocks[0])
    before = [slot.read() for slot in slots]
    CorrectedTargets(stream, 1.0, _DAMPING).move(0, slots, 2)
    assert all(torch.equal(slot.read(), old) for slot, old in zip(slots, before, strict=True))


def test_windows_beyond_the_asked_ones_only_pass_on():
    block, stream, targets, states = behind_errors("Llama")
    wanted = [stream.output(1, place, hidden) for place, hidden in enumerate(states)]
    before = [slot.read() for slot in find_slots(block)]
    targets.move(1, find_slots(block), 1)
    for found, right in zip(targets._reference, wanted, strict=True):
        assert torch.equal(found, right)  # by the block's own weights, not the moved ones
    assert not torch.equal(find_slots(block)[0].read(), before[0])


def test_a_corrected_run_is_another_run(compose_run, tmp_path):
    plain = read_record(run(compose_run(f"results_dir={tmp_path / 'plain'}")))
    asked = "calibration.target_correction=0.5"
    moved = read_record(run(compose_run(asked, f"results_dir={tmp_path / 'moved'}")))
    assert moved["result_digest"] != plain["result_digest"]
    assert moved["run_id"] != plain["run_id"]


def test_what_cannot_be_corrected_is_refused():
    with pytest.raises(ValidationError, match=r"set stream=quantized, or target_correction=0"):
        CalibrationConfig(source="x", target_correction=0.5, stream="full_precision")
    model, batch = build("Mixtral"), tokens(2, 16)
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, 2, torch.float32)
    with pytest.raises(ConfigError, match=r"sees only the tokens that are sent to it"):
        CorrectedTargets(stream, 1.0, _DAMPING).move(0, find_slots(blocks[0]), 1)
