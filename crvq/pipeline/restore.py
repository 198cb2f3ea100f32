"""Put a stored quantized model into the full-precision one that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.errors import CheckpointError
from crvq.models.blocks import find_blocks
from crvq.pipeline.stored_block import put_block, put_outer


def restore_model(model: nn.Module, store: BlockStore, skip: Sequence[str] = ()) -> None:
    """Write all that ``store`` holds into ``model``.

    Args:
        model: in full precision, with the weights that the store's blocks were made from.
        store: with every block of the model.
        skip: name endings of linears that were left alone.

    Raises:
        CheckpointError: a block is missing or damaged.
    """
    _, blocks = find_blocks(model)
    whole = store.whole_blocks()
    if whole < len(blocks):
        raise CheckpointError(
            f"{store.folder} holds {whole} of {len(blocks)} blocks undamaged; run the same "
            "command with force=true to quantize anew"
        )
    for index, block in enumerate(blocks):
        put_block(block, store.load_block(index, ModelShapes.of(block, skip)), skip)
    put_outer(model, store)
