"""Weights moved, before they are quantized, to make up for errors of the layers before them.

A block behind quantized ones sees other inputs x̂ than the full-precision model's x. Weights W that
are only kept near themselves pass the difference on. Least squares finds weights whose outputs are
those of the full-precision model as nearly as inputs x̂ allow:

    W' = W + α W E[(x - x̂) x̂ᵀ] (H + damping)⁻¹,   H = E[x̂ x̂ᵀ].

Quantization then works on W'. α = 1 is the solution itself (GPTAQ, arXiv 2504.02692, asks for it
column by column); as in any regression, outputs come out smaller the less x̂ says about x. A smaller
α keeps more of their size, and did better near 1 bit (QEP, arXiv 2504.09629, takes 1/2).

Layers of a block are moved in the order in which they run, those with one input together, and each
sees inputs that layers moved before it make: moved for inputs of unmoved ones, each would take back
what the others have already taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crvq.errors import ConfigError, QuantizationError
from crvq.models.activations import HiddenStates
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import LinearSlot
from crvq.team import team


class CorrectedTargets:
    """Follows the full-precision model next to the quantized one, and moves weights toward it.

    Args:
        stream: the quantized model's hidden states, in front of the first block.
        strength: α, in (0, 1].
        damping: of H's inverse, relative to H's mean diagonal.
    """

    def __init__(self, stream: BlockStream, strength: float, damping: float) -> None:
        self._stream, self._strength, self._damping = stream, strength, damping
        self._reference: HiddenStates = stream.hidden.filled(stream.hidden)

    def advance(self, index: int) -> None:
        """Pass the full-precision hidden states through a block that still has its own weights."""
        with torch.no_grad():
            for batch, hidden in enumerate(self._reference):
                self._reference[batch] = self._stream.output(index, batch, hidden)

    def move(self, index: int, slots: Sequence[LinearSlot], batches: int) -> None:
        """Advance past a block, then move its linear layers' weights in place.

        Args:
            index: of the block, its own weights in place.
            slots: its linear layers.
            batches: of the stream that are looked at.

        Raises:
            ConfigError: the block has experts in one fused weight.
            QuantizationError: H is not positive definite when damped.
        """
        fused = [slot.kind for slot in slots if slot.module is None]
        if fused:
            raise ConfigError(
                f"calibration.target_correction compares inputs token by token, and {fused[0]} "
                "sees only the tokens that are sent to it; set calibration.target_correction=0"
            )
        wanted = self._wanted_inputs(index, slots, batches)
        by_kind = {slot.kind: slot for slot in slots}
        for kinds, inputs in wanted.items():
            change = self._change(index, by_kind[kinds[0]], inputs)
            for kind in kinds:
                weight = by_kind[kind].read()
                moved = weight.double() + self._strength * weight.double() @ change
                by_kind[kind].write(moved.to(weight.dtype))

    def _wanted_inputs(
        self, index: int, slots: Sequence[LinearSlot], batches: int
    ) -> dict[tuple[str, ...], HiddenStates]:
        """Return the full-precision model's inputs by the layers that read them, in their order.

        Layers that do not see every token (a mixture's experts) are left out: which tokens they see
        differs between the two models.
        """
        kept: dict[tuple[str, ...], HiddenStates] = {}
        with torch.no_grad():
            for batch, hidden in enumerate(self._reference):
                with _inputs(slots) as seen:
                    self._reference[batch] = self._stream.output(index, batch, hidden)
                if batch >= batches:
                    continue
                readers: dict[int, list[str]] = {}
                for kind, inputs in seen.items():
                    if inputs.shape[:-1].numel() == hidden.shape[:-1].numel():
                        readers.setdefault(id(inputs), []).append(kind)
                for kinds in readers.values():
                    states = kept.setdefault(tuple(kinds), self._reference.empty())
                    states.append(seen[kinds[0]])
        return {kinds: states for kinds, states in kept.items() if len(states) == batches}

    def _change(self, index: int, slot: LinearSlot, wanted: HiddenStates) -> Tensor:
        """Return ``E[(x - x̂) x̂ᵀ] (H + damping)⁻¹``, ``(in, in)``, float64, for one input."""
        width = slot.shape[1]
        differs, second = (torch.zeros(width, width, device=wanted[0].device) for _ in range(2))
        with torch.no_grad():
            for batch, x in enumerate(wanted):
                with _inputs([slot], stop=True) as seen:
                    self._stream.output(index, batch, self._stream.hidden[batch])
                present = seen[slot.kind].flatten(0, -2).float()
                # The difference itself: E[x x̂ᵀ] and H are large and nearly equal.
                differs.addmm_((x.flatten(0, -2).float() - present).T, present)
                second.addmm_(present.T, present)
        if team().size > 1:
            team().add_up(differs)
            team().add_up(second)
        matrix = second.double()
        typical = matrix.diagonal().mean()
        # A channel that is always zero moves nothing; an input of zeros alone has any inverse.
        matrix.diagonal().add_(self._damping * typical if float(typical) > 0 else 1.0)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            raise QuantizationError(
                f"the second moment of {slot.kind}'s input is not positive definite when damped by "
                f"{self._damping:g} of its mean diagonal: raise calibration.target_damping, or set "
                "calibration.target_correction=0"
            )
        return torch.cholesky_solve(differs.double().mT, factor).mT


class _SeenError(Exception):
    """Ends a pass once the input that is looked for is known."""


@contextmanager
def _inputs(slots: Sequence[LinearSlot], *, stop: bool = False) -> Iterator[dict[str, Tensor]]:
    """Return the inputs of linear layers in a forward pass of this context, in their order.

    Args:
        slots: the layers.
        stop: end the pass at the first of them.
    """
    inputs: dict[str, Tensor] = {}

    def hook(kind: str) -> Any:  # noqa: ANN401 - a hook
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[kind] = args[0] if args else next(iter(kwargs.values()))
            if stop:
                raise _SeenError

        return keep

    handles = [
        slot.module.register_forward_pre_hook(hook(slot.kind), with_kwargs=True)
        for slot in slots
        if slot.module is not None
    ]
    try:
        yield inputs
    except _SeenError:
        pass
    finally:
        for handle in handles:
            handle.remove()
