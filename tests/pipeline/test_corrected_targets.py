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
from crvq.vq.hessian import Hessian
from tests.architectures import build, tokens

_DAMPING = 0.01


def inputs_of(model, index, batch):
    """Inputs of a block's linear layers in the model's own pass, by kind, ``(tokens, in)``."""
    _, blocks = find_blocks(model)
    seen = {}
    handles = [
        slot.module.register_forward_pre_hook(
            lambda _, args, kind=slot.kind: seen.setdefault(kind, []).append(
                args[0].flatten(0, -2).double()
            )
        )
        for slot in find_slots(blocks[index])
    ]
    with torch.no_grad():
        for part in batch.split(2):
            model(part)
    for handle in handles:
        handle.remove()
    return {kind: torch.cat(parts) for kind, parts in seen.items()}


@pytest.mark.parametrize("name", ["Llama", "OPT"])
def test_moved_weights_are_the_least_squares_solution(name):
    model, batch = build(name), tokens(6, 24)
    _, blocks = find_blocks(model)
    wanted = inputs_of(model, 1, batch)
    stream = BlockStream(model, blocks, batch, 2, torch.float32)
    targets = CorrectedTargets(stream, 1.0, _DAMPING)
    targets.collect(0, find_slots(blocks[0]), 3)
    with torch.no_grad():  # a first block with errors
        for slot in find_slots(blocks[0]):
            weight = slot.module.weight
            weight.add_(0.3 * weight.std() * torch.randn_like(weight))
    stream.advance(0)
    present = inputs_of(model, 1, batch)
    slots = find_slots(blocks[1])
    found = targets.collect(1, slots, 3)
    for slot in slots:
        x, inputs = wanted[slot.kind], present[slot.kind]
        second = inputs.T @ inputs / len(inputs)
        weight = slot.read()
        moved = targets.moved(slot.kind, weight, Hessian(second.float()), found)
        # Ridge regression toward W, in float64: min ‖W x - W' x̂‖² + damping ‖W' - W‖².
        damped = second + _DAMPING * second.diagonal().mean() * torch.eye(len(second))
        cross = (x - inputs).T @ inputs / len(inputs)
        best = weight.double() + torch.linalg.solve(damped, (weight.double() @ cross).T).T
        torch.testing.assert_close(moved.double(), best, rtol=1e-3, atol=1e-4 * float(best.std()))

        def error(w, x=x, inputs=inputs, weight=weight):
            return float((x @ weight.double().T - inputs @ w.double().T).square().sum())

        assert error(moved) < error(weight)


def test_a_fraction_moves_that_part_of_the_way():
    model, batch = build("Llama"), tokens(4, 16)
    _, blocks = find_blocks(model)
    slots = find_slots(blocks[1])
    moved = []
    for strength in (1.0, 0.25):
        stream = BlockStream(model, blocks, batch, 2, torch.float32)
        targets = CorrectedTargets(stream, strength, _DAMPING)
        targets.advance(0)
        for place, hidden in enumerate(stream.hidden):  # another first block
            stream.hidden[place] = hidden * 0.9
        found = targets.collect(1, slots, 2)
        inputs = inputs_of(model, 1, batch)[slots[0].kind].float()
        hessian = Hessian(inputs.T @ inputs / len(inputs))
        weight = slots[0].read()
        moved.append(targets.moved(slots[0].kind, weight, hessian, found) - weight)
    torch.testing.assert_close(moved[0] * 0.25, moved[1], rtol=1e-3, atol=1e-6)


def test_equal_inputs_move_nothing():
    model, batch = build("Llama"), tokens(4, 16)
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, 2, torch.float32)
    targets = CorrectedTargets(stream, 1.0, _DAMPING)
    slots = find_slots(blocks[0])
    found = targets.collect(0, slots, 2)
    inputs = inputs_of(model, 0, batch)[slots[0].kind].float()
    weight = slots[0].read()
    moved = targets.moved(slots[0].kind, weight, Hessian(inputs.T @ inputs), found)
    assert torch.equal(moved, weight)


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
        CorrectedTargets(stream, 1.0, _DAMPING).collect(0, find_slots(blocks[0]), 1)
