import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from crvq.models.blocks import find_blocks, find_slots
from tests.architectures import ARCHITECTURES, MIXTURES, build, tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_of_a_block_is_found_once(name):
    _, blocks = find_blocks(build(name))
    for block in blocks:
        modules = {
            kind
            for kind, module in block.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        slices = {
            f"{key}.{expert}"
            for key, parameter in block.named_parameters()
            if parameter.ndim == 3
            for expert in range(len(parameter))
        }
        kinds = [slot.kind for slot in find_slots(block)]
        assert len(kinds) == len(set(kinds))
        assert set(kinds) == modules | slices
        assert bool(slices) == (name in [*MIXTURES, "GptOss"])


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "GptOss"])
def test_a_written_weight_is_read_back_and_changes_what_the_model_computes(name):
    model = build(name)
    _, blocks = find_blocks(model)
    batch = tokens(6, 40)
    before = model(batch).logits
    for slot in find_slots(blocks[-1]):
        held = slot.read()
        assert held.shape == slot.shape
        assert held.dtype == torch.float32
        slot.write(torch.zeros_like(held))
        assert not torch.equal(model(batch).logits, before), slot.kind
        slot.write(held)
        assert torch.equal(model(batch).logits, before), slot.kind


def test_a_slot_reads_the_matrix_that_is_applied():
    """For a linear y = x Wᵀ + b, whatever the module calls its weight."""
    x = torch.randn(3, 4)
    for module in (nn.Linear(4, 5), Conv1D(5, 4)):
        (slot,) = find_slots(nn.Sequential(module))
        assert slot.shape == (5, 4)
        torch.testing.assert_close(x @ slot.read().T + module.bias, module(x))


def test_what_is_read_is_a_copy():
    module = nn.Linear(3, 2)
    (slot,) = find_slots(nn.Sequential(module))
    slot.read().zero_()
    assert bool(module.weight.any())


def test_a_weight_is_rounded_to_the_parameters_type():
    module = nn.Linear(3, 2).to(torch.bfloat16).requires_grad_(False)
    (slot,) = find_slots(nn.Sequential(module))
    wanted = torch.randn(2, 3)
    slot.write(wanted)
    assert torch.equal(module.weight, wanted.bfloat16())


def test_name_endings_are_skipped():
    _, (block, *_) = find_blocks(build("Llama"))
    kinds = {slot.kind for slot in find_slots(block)}
    left = {slot.kind for slot in find_slots(block, skip=("down_proj", "self_attn.k_proj"))}
    assert kinds - left == {"mlp.down_proj", "self_attn.k_proj"}


def test_a_convolution_is_no_mixture_of_experts():
    assert find_slots(nn.Sequential(nn.Conv1d(6, 6, 3, groups=6))) == []
