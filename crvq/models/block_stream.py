"""Activations on their way through the blocks, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crvq.models.precision import forward_precision
from crvq.models.residence import IN_MEMORY, Residence, model_device


@dataclass(frozen=True)
class BlockCall:
    """How a model calls one of its blocks, less the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden_key: str | None
    """The keyword that carries the hidden states; None if they come first by position."""

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return the block's output hidden states."""
        output = self.output(block, hidden)
        return output[0] if isinstance(output, tuple) else output

    def output(self, block: nn.Module, hidden: Tensor) -> Any:  # noqa: ANN401 - as it comes
        """Return what the block returns, which may be a tuple that begins with hidden states."""
        if self.hidden_key is None:
            return block(hidden, *self.args, **self.kwargs)
        return block(*self.args, **{**self.kwargs, self.hidden_key: hidden})


class _StopForwardError(Exception):
    """Ends a forward pass once its input to the first block is known."""


class BlockStream:
    """The calibration text's hidden states in front of one block after another.

    The model's own forward pass is used to find out how each block is called (masks, positions,
    rotary embeddings, whatever the architecture passes), so no architecture is known by name.

    Args:
        model: in eval mode.
        blocks: its blocks, in order.
        windows: token ids ``(samples, length)``.
        batch_size: windows in one pass.
        activation_dtype: type of forward passes.
        residence: where the blocks are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Sequence[nn.Module],
        windows: Tensor,
        batch_size: int,
        activation_dtype: torch.dtype,
        residence: Residence = IN_MEMORY,
    ) -> None:
        self._blocks = list(blocks)
        self._residence = residence
        self._device = model_device(model)
        self._dtype = activation_dtype
        batches = list(windows.to(self._device).split(batch_size))
        # Equal windows are called alike in all but the hidden states. If a model passes
        # something that depends on the text, every batch gets its own calls.
        self.hidden = residence.states()
        firsts: list[BlockCall] = []
        for batch in batches:
            with residence.paused():
                ((first, hidden),) = self._capture(model, batch, only_first=True)
            firsts.append(first)
            self.hidden.append(hidden)
        self._tupled = residence.streamed and self._returns_tuple(firsts[0])
        calls = self._all_calls(model, batches[0])
        alike = all(_alike(firsts[0], first) for first in firsts[1:])
        rest = [] if alike else [self._all_calls(model, batch) for batch in batches[1:]]
        self._calls = [calls] * len(batches) if alike else [calls, *rest]

    def __len__(self) -> int:
        return len(self.hidden)

    def outputs(self, index: int) -> Iterator[Tensor]:
        """Outputs of block ``index`` for each batch, computed one by one."""
        for batch, hidden in enumerate(self.hidden):
            # Not inference mode: fine-tuning takes gradients through what is computed here.
            with torch.no_grad():
                output = self.output(index, batch, hidden)
            # Outside the context: a caller between two batches is not to compute in it.
            yield output

    def output(self, index: int, batch: int, hidden: Tensor) -> Tensor:
        """Output of block ``index`` for hidden states of batch ``batch``, with a graph."""
        with forward_precision(self._device, self._dtype):
            return self._calls[batch][index].run(self._blocks[index], hidden)

    def advance(self, index: int) -> None:
        """Replace the hidden states by the outputs of block ``index``."""
        for batch, output in enumerate(self.outputs(index)):
            self.hidden[batch] = output

    @contextmanager
    def replaced(self, states: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let a function of the hidden states stand in for every block, which stays on disk."""

        def stand_in(*args: object, **kwargs: object) -> object:
            _, hidden = _split_call(args, kwargs)
            return (states(hidden),) if self._tupled else states(hidden)

        for block in self._blocks:
            block.forward = stand_in
        try:
            with self._residence.paused():
                yield
        finally:
            for block in self._blocks:
                del block.forward

    def _returns_tuple(self, call: BlockCall) -> bool:
        """Run the first block on a few positions, to see in which form it returns them."""
        precision = forward_precision(self._device, self._dtype)
        with self._residence.hold(0), precision, torch.no_grad():
            return isinstance(call.output(self._blocks[0], self.hidden[0]), tuple)

    def _all_calls(self, model: PreTrainedModel, batch: Tensor) -> list[BlockCall]:
        """Return how each block is called on a batch."""
        if not self._residence.streamed:
            return [call for call, _ in self._capture(model, batch, only_first=False)]
        # What a block is given besides hidden states does not depend on earlier blocks.
        with self.replaced(lambda hidden: hidden):
            return [call for call, _ in self._capture(model, batch, only_first=False)]

    def _capture(
        self, model: PreTrainedModel, batch: Tensor, only_first: bool
    ) -> list[tuple[BlockCall, Tensor]]:
        """How each block (or only the first) is called on a batch, with its hidden states."""
        calls: list[tuple[BlockCall, Tensor]] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call, hidden = _split_call(args, kwargs)
            # Only the first block's hidden states are kept: later ones are computed block by block.
            calls.append((call, hidden if not calls else hidden[:0]))
            if only_first:
                raise _StopForwardError

        watched = self._blocks[:1] if only_first else self._blocks
        with _hooks(watched, note), torch.no_grad():
            try:
                with forward_precision(self._device, self._dtype):
                    _run_decoder(model, batch)
            except _StopForwardError:
                pass
        return calls


def _run_decoder(model: PreTrainedModel, batch: Tensor) -> None:
    """A forward pass without the output head: only what the blocks are given matters."""
    decoder = getattr(model, model.base_model_prefix, model)
    decoder(batch, use_cache=False)


@contextmanager
def _hooks(modules: Sequence[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[BlockCall, Tensor]:
    if args:
        return BlockCall(tuple(args[1:]), dict(kwargs), None), args[0]
    key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    rest = {name: value for name, value in kwargs.items() if name != key}
    return BlockCall((), rest, key), kwargs[key]


def _alike(one: BlockCall, other: BlockCall) -> bool:
    if one.hidden_key != other.hidden_key or one.kwargs.keys() != other.kwargs.keys():
        return False
    pairs = [*zip(one.args, other.args, strict=False)]
    pairs += [(one.kwargs[key], other.kwargs[key]) for key in one.kwargs]
    return len(one.args) == len(other.args) and all(_same(a, b) for a, b in pairs)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - whatever a model passes
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    return type(one) is type(other) and (one is other or one == other)
