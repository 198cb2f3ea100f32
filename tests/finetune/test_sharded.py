"""Divided parameters against whole ones: a group of one process here, of two in tests/pipeline."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from crvq.finetune.dense_weights import WHOLE, rows_of
from crvq.finetune.free_values import FreeValues, QuantizedSlot, norm_parameters
from crvq.finetune.sharded import SHARDED, sharded_blocks
from crvq.models.blocks import find_slots

ALL = ("codebooks", "scales", "norms")


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Stack(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(6)

    def forward(self, hidden):
        for block in self.layers:
            hidden = block(hidden)
        return self.norm(hidden)


def step(model, block, linears, dense):
    slots = {slot.kind: slot for slot in find_slots(block)}
    own = [QuantizedSlot(one.name, slots[one.name], one.weight) for one in linears]
    free = FreeValues(own, norm_parameters(model), ALL, True, dense=dense)
    generator = torch.Generator().manual_seed(1)
    for leaf in free.leaves.values():
        leaf.free += 0.1 * torch.randn(leaf.free.shape, generator=generator)
    free.write(free.values())
    with free.gradients():
        for part in torch.linspace(-2, 2, 24).view(4, 6).split(2):
            model(part).square().sum().backward()
    found = {name: leaf.free.grad for name, leaf in free.leaves.items()}
    # A training ends with what storage would make of its values.
    free.restore(free.snapshot(free.stored()))
    return found


def test_gradients_and_values_are_those_of_whole_parameters(group, toy):
    block, linears = toy()
    whole = Stack([block]).requires_grad_(False)
    divided = copy.deepcopy(whole)
    own = divided.layers[0]
    expected = step(whole, block, linears, WHOLE)
    with sharded_blocks(divided, "layers", torch.device("cpu")) as blocks:
        assert divided.layers[0] is blocks[0] is not own
        assert own.up.weight.untyped_storage().nbytes() == 4  # its memory is given up
        found = step(divided, blocks[0], linears, SHARDED)
        # Whole only while the block computes.
        assert all(isinstance(one, DTensor) for one in blocks[0].parameters())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    assert divided.layers[0] is own
    for name, value in divided.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in divided.parameters())


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_rows_are_divided_as_torch_divides_them(count):
    chunks = torch.arange(count).chunk(4)
    for part in range(4):
        first, end = rows_of(count, part, 4)
        expected = chunks[part].tolist() if part < len(chunks) else []
        assert list(range(first, end)) == expected
