"""Where the dense weights of a training lie: whole in the model's parameters.

`crvq.finetune.sharded` divides them among processes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from crvq.models.blocks import LinearSlot

Take = Callable[[Tensor, Tensor], None]
"""Receives a parameter and the gradient of the step's loss for it, of the same shape."""


class DenseWeights:
    """Reads, writes and differentiates the parameters that stand in for quantized weights."""

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a parameter's value, all of it, in float32."""
        return parameter.detach().float()

    def write(self, slot: LinearSlot, weight: Tensor) -> None:
        """Put the decoded weight ``(out, in)`` of a linear layer into the model."""
        slot.write(weight)

    def put(self, parameter: Tensor, value: Tensor) -> None:
        """Replace a parameter's value."""
        parameter.data.copy_(value)

    @contextmanager
    def gradients(self, parameters: Sequence[Tensor], take: Take) -> Iterator[None]:
        """Backward passes inside hand each parameter's gradient to ``take`` and forget it.

        It is handed out as soon as it is complete, so that no two dense gradients are held.
        """
        handles = []

        def hand_out(done: Tensor) -> None:
            gradient, done.grad = done.grad, None
            assert gradient is not None
            take(done, gradient)

        for parameter in parameters:
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(hand_out))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None


WHOLE = DenseWeights()
"""Parameters of a model that is whole in this process."""


def rows_of(count: int, part: int, parts: int) -> tuple[int, int]:
    """Return where a part of ``count`` rows starts and ends, as `torch.chunk` divides them."""
    each = -(-count // parts)
    return min(part * each, count), min((part + 1) * each, count)
