"""Where the blocks of a model are: in memory, or on disk until they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from crvq.models.activations import HiddenStates

PutStored = Callable[[int, nn.Module], None]
"""Puts the stored weights of a block, by its index, into the module."""


class Residence:
    """A model whose blocks are all in memory, on its device; see `crvq.models.streaming`."""

    streamed = False

    def hold(self, index: int) -> AbstractContextManager[None]:
        """Return a context in which the weights of a block are in memory."""
        return nullcontext()

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which calling a block does not bring its weights into memory."""
        return nullcontext()

    def follow(self, put_stored: PutStored) -> None:
        """From now on, put stored weights into each block after it is read."""

    def computed(
        self, windows: Tensor, activation_dtype: torch.dtype, on_block: Callable[[int], None]
    ) -> AbstractContextManager[None]:
        """Return a context in which the model's forward pass of each of these windows is fast.

        Args:
            windows: ``(windows, length)`` of token ids.
            activation_dtype: type of forward passes.
            on_block: called with each block's index before the windows go through it.
        """
        return nullcontext()

    def states(self) -> HiddenStates:
        """Return an empty sequence for hidden states."""
        return HiddenStates()

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Return every parameter and persistent buffer in the order of its name."""
        return iter(sorted(model.state_dict().items()))


IN_MEMORY = Residence()


def model_device(model: nn.Module) -> torch.device:
    """Return where the model's weights are, apart from those that are on disk."""
    return next(one.device for one in model.parameters() if not one.is_meta)
