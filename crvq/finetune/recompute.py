"""Gradient checkpointing: a block keeps its input only, and runs again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks run with checkpointing inside, whatever their architecture; as before after it."""
    before: list[Any] = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own
