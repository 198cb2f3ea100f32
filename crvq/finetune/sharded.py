"""Blocks whose dense weights are divided among the processes of a team while they train (FSDP2).

Each process holds its part of the rows of every parameter; a block's weights are whole only while
it computes. What is trained (codebooks, scales, norms) is small, and every process has all of it:
gradients of dense weights are added up over processes part by part, gathered for one linear layer
at a time, and turned into gradients of its codebooks by one process each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from crvq.finetune.dense_weights import DenseWeights, Take, rows_of
from crvq.models.blocks import LinearSlot
from crvq.team import team


class ShardedWeights(DenseWeights):
    """Parameters of which each process holds a part of the rows (of the experts, where fused).

    Parameters outside the blocks (the last norm) are whole in every process.
    """

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a parameter's value, all of it, in float32; all processes must ask for it."""
        whole = parameter.detach()
        return (whole.full_tensor() if isinstance(whole, DTensor) else whole).float()

    def write(self, slot: LinearSlot, weight: Tensor) -> None:
        """Put this process's part of a decoded weight ``(out, in)`` into the model."""
        held = weight.T if slot.transposed else weight
        if slot.expert is None:
            self.put(slot.parameter, held)
            return
        local, first, end = _own_part(slot.parameter)
        if first <= slot.expert < end:
            local[slot.expert - first].copy_(held)

    def put(self, parameter: Tensor, value: Tensor) -> None:
        """Replace this process's part of a parameter; ``value`` is all of it."""
        local, first, end = _own_part(parameter)
        local.copy_(value[first:end])

    @contextmanager
    def gradients(self, parameters: Sequence[Tensor], take: Take) -> Iterator[None]:
        """After the backward passes inside, hand each gradient to ``take`` in one process.

        The sums over all processes of what they hand out are the gradients of the summed loss.
        """
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield
            for place, parameter in enumerate(parameters):
                gradient, parameter.grad = parameter.grad, None
                if gradient is None:
                    continue
                if not isinstance(gradient, DTensor):
                    take(parameter, gradient)
                    continue
                gathered = gradient.full_tensor()  # every process takes part in it
                if place % team().size == team().rank:
                    take(parameter, gathered)
        finally:
            for parameter in parameters:
                parameter.grad = None
                if not isinstance(parameter, DTensor):
                    parameter.requires_grad_(False)


SHARDED = ShardedWeights()
"""Parameters of blocks in `sharded_blocks`."""


@contextmanager
def sharded_blocks(model: nn.Module, name: str, device: torch.device) -> Iterator[list[nn.Module]]:
    """Put divided copies of a model's blocks into it; its own come back with the new values.

    The originals give up their memory meanwhile, block by block, so that at no time more than one
    block is held twice.

    Args:
        model: the same in all processes.
        name: of its list of blocks.
        device: of this process.
    """
    stack = model.get_submodule(name)
    assert isinstance(stack, nn.ModuleList)
    mesh = init_device_mesh(device.type, (team().size,))
    originals = list(stack)
    for index, block in enumerate(originals):
        divided = copy.deepcopy(block).requires_grad_(True)
        # Each block is a root of its own, and a root would stay whole after its forward pass.
        sharding = fully_shard(divided, mesh=mesh, reshard_after_forward=True)
        # Losses are means over all parts already: gradients are added, not averaged. gloo knows
        # no sum with a factor.
        sharding.set_gradient_divide_factor(1.0)
        sharding.set_force_sum_reduction_for_comms(True)
        for parameter in block.parameters():
            parameter.data = parameter.data.new_empty(()).expand(parameter.shape)
        stack[index] = divided
    yield list(stack)
    # Not after an error: all processes take part in this, and one that failed by itself (a full
    # disk) would wait for others that are elsewhere. The run is over then, and its model with it.
    for index, block in enumerate(originals):
        pairs = zip(block.parameters(), stack[index].parameters(), strict=True)
        for parameter, part in pairs:
            whole = part.detach()
            parameter.data = whole.full_tensor() if isinstance(whole, DTensor) else whole
        stack[index] = block


def maybe_sharded(
    together: bool, model: nn.Module, name: str, blocks: Sequence[nn.Module], device: torch.device
) -> AbstractContextManager[list[nn.Module]]:
    """`sharded_blocks` where processes train together; else the blocks as they are."""
    return sharded_blocks(model, name, device) if together else nullcontext(list(blocks))


def _own_part(parameter: Tensor) -> tuple[Tensor, int, int]:
    """Return what this process holds of a parameter, and which rows of it that is."""
    if not isinstance(parameter, DTensor):
        return parameter.data, 0, len(parameter)
    return parameter.to_local().detach(), *rows_of(len(parameter), team().rank, team().size)
