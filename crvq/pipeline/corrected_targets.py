"""Weights moved, before they are quantized, to make up for errors of the layers before them.

A block behind quantized ones sees other inputs x̂ than the full-precision model's x. Weights W that
are only kept near themselves pass the difference on. Least squares finds weights that take it back:
for a linear layer that is to give ``t`` (its outputs in the full-precision model),

    W' = W + α (E[t x̂ᵀ] - W E[x̂ x̂ᵀ]) H⁻¹,   H = E[x̂ x̂ᵀ] + damping,

and quantization then works on W' with the same H. α = 1 is the solution itself (GPTAQ, arXiv
2504.02692, asks for it column by column); a smaller α follows noise in few tokens less (QEP, arXiv
2504.09629). ``t`` is ``W x``; the last linear layers before an addition to the residual stream may
also make up for what the residual stream itself lacks (`residual`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crvq.errors import ConfigError
from crvq.models.activations import HiddenStates
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import LinearSlot
from crvq.team import Team
from crvq.vq.hessian import Hessian, HessianError


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

    def collect(self, index: int, slots: Sequence[LinearSlot], batches: int) -> InputDifferences:
        """Return what inputs differ by, summed over the first ``batches``; then advance.

        Args:
            index: of the block, its own weights in place.
            slots: its linear layers.
            batches: of the stream that H is collected from too.
        """
        found = InputDifferences(slots)
        with torch.no_grad():
            for batch, hidden in enumerate(self._reference):
                if batch >= batches:
                    output = self._stream.output(index, batch, hidden)
                else:
                    with found.seeing() as wanted:
                        output = self._stream.output(index, batch, hidden)
                    with found.seeing() as present:
                        self._stream.output(index, batch, self._stream.hidden[batch])
                    found.add(wanted, present, hidden.shape[:-1].numel())
                self._reference[batch] = output
        return found

    def moved(self, kind: str, weight: Tensor, hessian: Hessian, seen: InputDifferences) -> Tensor:
        """Return W', ``(out, in)``; W itself for a layer that does not see every token.

        Args:
            kind: of the linear layer.
            weight: W.
            hessian: of x̂, undamped.
            seen: by `collect`.

        Raises:
            HessianError: H is not positive definite when damped.
        """
        difference = seen.mean(kind)
        if difference is None:
            return weight
        matrix = hessian.matrix.double()
        damped = matrix + self._damping * matrix.diagonal().mean() * torch.eye(
            len(matrix), dtype=matrix.dtype, device=matrix.device
        )
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            raise HessianError(
                f"not positive definite when damped by {self._damping:g} of its mean diagonal; "
                "weights cannot be moved by it. Set calibration.target_damping higher, or "
                "calibration.target_correction=0"
            )
        # Once per input: layers that read one input share D H⁻¹, and each multiplies it by its W.
        change = torch.cholesky_solve(difference.double().mT, factor).mT
        return (weight.double() + self._strength * weight.double() @ change).to(weight.dtype)


class InputDifferences:
    """Sums ``Σ (x - x̂) x̂ᵀ`` for each distinct input of a block's linear layers.

    Args:
        slots: of the block.

    Raises:
        ConfigError: the block has experts in one fused weight.
    """

    def __init__(self, slots: Sequence[LinearSlot]) -> None:
        fused = [slot.kind for slot in slots if slot.module is None]
        if fused:
            raise ConfigError(
                f"calibration.target_correction compares inputs token by token, and {fused[0]} "
                "sees only the tokens that are sent to it; set calibration.target_correction=0"
            )
        self._slots = list(slots)
        self._sums: dict[str, Tensor] = {}
        self._leader: dict[str, str] = {}
        self.tokens = 0

    @contextmanager
    def seeing(self) -> Iterator[dict[str, Tensor]]:
        """Return the inputs of linear layers in forward passes of this context, by kind."""
        inputs: dict[str, Tensor] = {}

        def hook(kind: str) -> Any:  # noqa: ANN401 - a hook
            def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inputs[kind] = args[0] if args else next(iter(kwargs.values()))

            return keep

        handles = [
            slot.module.register_forward_pre_hook(hook(slot.kind), with_kwargs=True)
            for slot in self._slots
            if slot.module is not None
        ]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()

    def add(self, wanted: Mapping[str, Tensor], present: Mapping[str, Tensor], tokens: int) -> None:
        """Add one batch.

        Args:
            wanted: x by kind, ``(..., in)``.
            present: x̂ by kind.
            tokens: of the batch. Inputs of fewer (a mixture's experts) are left out: which tokens
                they are differs between the two models.
        """
        self.tokens += tokens
        leaders: dict[int, str] = {}
        for kind, inputs in present.items():
            if kind not in wanted or inputs.shape[:-1].numel() != tokens:
                continue
            leader = leaders.setdefault(id(inputs), kind)
            self._leader.setdefault(kind, leader)
            if leader != kind:
                continue
            flat = inputs.flatten(0, -2).float()
            # The difference itself, since E[x x̂ᵀ] and H are large and nearly equal.
            apart = wanted[kind].flatten(0, -2).float() - flat
            if kind in self._sums:
                self._sums[kind].addmm_(apart.T, flat)
            else:
                self._sums[kind] = apart.T @ flat

    def add_up(self, team: Team) -> None:
        """Add up what all processes of a team saw."""
        if team.size > 1:
            for kind in sorted(self._sums):
                team.add_up(self._sums[kind])
            self.tokens = int(team.total([self.tokens])[0])

    def mean(self, kind: str) -> Tensor | None:
        """Return ``E[(x - x̂) x̂ᵀ]``, ``(in, in)``; None for a layer that was left out."""
        leader = self._leader.get(kind)
        return None if leader is None else self._sums[leader] / max(self.tokens, 1)
