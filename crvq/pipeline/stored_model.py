"""Stored blocks put back into a model, and a model trained as a whole stored as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crvq.checkpoint import BlockStore, ModelShapes, StoredBlock
from crvq.errors import CheckpointError
from crvq.models.blocks import find_blocks, find_slots
from crvq.models.residence import IN_MEMORY, PutStored, Residence
from crvq.weights.quantized import QuantizedWeight


def restore_model(
    model: nn.Module,
    store: BlockStore,
    skip: Sequence[str] = (),
    residence: Residence = IN_MEMORY,
) -> None:
    """Write all that ``store`` holds into ``model``.

    Args:
        model: in full precision, with the weights that the store's blocks were made from.
        store: with every block of the model.
        skip: name endings of linear layers that stay in full precision.
        residence: where the model's blocks are: streamed ones are written when they are read.

    Raises:
        CheckpointError: a block is missing or damaged.
    """
    _, blocks = find_blocks(model)
    whole = store.whole_blocks()
    if whole < len(blocks):
        raise CheckpointError(
            f"{store.folder} holds {whole} of {len(blocks)} blocks undamaged; run the command "
            "that made the run again: it quantizes the damaged blocks again"
        )
    put_stored = from_store(store, skip)
    residence.follow(put_stored)
    if not residence.streamed:
        for index, block in enumerate(blocks):
            put_stored(index, block)
    put_outer(model, store)


def from_store(store: BlockStore, skip: Sequence[str]) -> PutStored:
    """Return a function that puts the stored weights of a block into the module."""

    def put_stored(index: int, block: nn.Module) -> None:
        put_block(block, store.load_block(index, ModelShapes.of(block, skip)), skip)

    return put_stored


def put_block(block: nn.Module, stored: StoredBlock, skip: Sequence[str]) -> None:
    """Put a stored block's quantized weights, and trained norms and biases, into the module.

    Args:
        block: of the full-precision model.
        stored: what was read.
        skip: ``model.skip_linears``.
    """
    for slot in find_slots(block, skip):
        if slot.kind in stored.weights:
            slot.write(stored.weights[slot.kind].dequantize())
    with torch.no_grad():
        for name, value in stored.others.items():
            block.get_parameter(name).copy_(value)


def put_outer(model: nn.Module, store: BlockStore) -> None:
    """Put trained norms and biases that belong to no block into the model."""
    with torch.no_grad():
        for name, value in store.load_outer(ModelShapes.of(model)).items():
            model.get_parameter(name).copy_(value)


def store_trained(
    name: str,
    blocks: int,
    before: BlockStore,
    store: BlockStore,
    weights: Mapping[str, QuantizedWeight],
    others: Mapping[str, Tensor],
    training: dict[str, Any],
) -> None:
    """Store a model that was trained as a whole; what was not trained stays as it was.

    Args:
        name: of the list of blocks in the model.
        blocks: how many there are.
        before: the store of the blocks before that training.
        store: where to.
        weights: trained ones, by ``<block>.<kind>``.
        others: trained norms and biases by their name in the model.
        training: summary and loss curve, as JSON can hold them.
    """
    shared = dict(before.load_shared() or {})
    for weight in weights.values():
        together = weight.shared()
        if together is not None and before.serves_model(together[0]):
            shared |= {f"{together[0]}.{key}": part for key, part in together[1].items()}
    if shared:
        store.save_shared(shared)
    inside = tuple(f"{name}.{index}." for index in range(blocks))
    store.save_outer({key: one for key, one in others.items() if not key.startswith(inside)})
    for index in range(blocks):
        earlier = before.load_block(index)
        own = {kind: weights.get(f"{index}.{kind}", one) for kind, one in earlier.weights.items()}
        norms = {
            key.removeprefix(inside[index]): one
            for key, one in others.items()
            if key.startswith(inside[index])
        }
        store.save_block(index, own, earlier.rows, {**earlier.others, **norms}, earlier.training)
    store.finish_training(training)
