"""Collect H = E[x xᵀ] of every linear's input while a block runs, one H per input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crvq.errors import QuantizationError
from crvq.models.blocks import LinearSlot
from crvq.team import Team


@dataclass
class InputStatistics:
    """What the inputs of one or more linears add up to."""

    total: Tensor
    """``Σ x xᵀ (in, in)``, float32."""
    tokens: int = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs ``(..., in)``; products are accumulated in float32 whatever their type."""
        flat = inputs.flatten(0, -2).float()
        # In place, which autocast leaves alone: it would round another product to bfloat16.
        self.total.addmm_(flat.T, flat)
        self.tokens += len(flat)

    def second_moment(self) -> Tensor:
        """H; zeros if no token was seen."""
        return self.total / max(self.tokens, 1)


class InputCollector:
    """Accumulates second moments for a block's linears.

    Linears that are called with the same tensor share one accumulator; which those are shows in
    the first pass and is then relied upon.

    Args:
        slots: the block's linears.
    """

    def __init__(self, slots: Sequence[LinearSlot]) -> None:
        self._slots = list(slots)
        self._statistics: dict[str, InputStatistics] = {}
        self._leader: dict[str, str] = {}
        # Inputs of the running pass by kind; held, so that `id()` is not reused.
        self._inputs: dict[str, Tensor] = {}
        self._fused_seen: set[int] = set()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect from forward passes in this context; one pass a context."""
        handles = [
            slot.module.register_forward_pre_hook(self._module_hook(slot.kind), with_kwargs=True)
            for slot in self._slots
            if slot.module is not None
        ]
        experts = {
            slot.parameter.data[slot.expert].data_ptr(): slot
            for slot in self._slots
            if slot.expert is not None
        }
        try:
            with _LinearWatch(experts, self._see_expert):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._inputs.clear()

    def add_up(self, team: Team) -> None:
        """Add up what all processes of a team saw."""
        if team.size == 1:
            return
        # All must add in one order, and one process may not have seen an expert that others saw.
        for slot in self._slots:
            seen = slot.kind in self._leader
            leader = team.share((self._leader[slot.kind] if seen else "").encode()).decode()
            known = team.total([float(seen)])[0]
            if not known:
                continue
            leader = leader or slot.kind
            self._leader.setdefault(slot.kind, leader)
            if slot.expert is not None:
                self._fused_seen.add(id(slot.parameter))
            if leader != slot.kind:
                continue
            own = self._statistics.get(slot.kind)
            if own is None:
                width = slot.shape[1]
                own = InputStatistics(torch.zeros(width, width, device=slot.parameter.device))
                self._statistics[slot.kind] = own
            team.add_up(own.total)
            own.tokens = int(team.total([own.tokens])[0])

    def statistics(self, slot: LinearSlot) -> InputStatistics | None:
        """Return what the slot's input added up to; None if the model never applied it as a linear.

        An expert that no token was sent to has zero tokens; a fused parameter of which no slice
        was ever applied as a linear is used in some other way, and is None.
        """
        leader = self._leader.get(slot.kind)
        if leader is not None:
            return self._statistics[leader]
        if slot.expert is not None and id(slot.parameter) in self._fused_seen:
            in_features = slot.shape[1]
            zeros = torch.zeros(in_features, in_features, device=slot.parameter.device)
            return InputStatistics(zeros)
        return None

    def _module_hook(self, kind: str) -> Any:  # noqa: ANN401 - a hook
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._see(kind, args[0] if args else next(iter(kwargs.values())))

        return hook

    def _see_expert(self, slot: LinearSlot, inputs: Tensor) -> None:
        self._fused_seen.add(id(slot.parameter))
        self._see(slot.kind, inputs)

    def _see(self, kind: str, inputs: Tensor) -> None:
        leader = self._leader.get(kind)
        if leader is None:
            same = (other for other, seen in self._inputs.items() if seen is inputs)
            leader = self._leader[kind] = next(same, kind)
        self._inputs[kind] = inputs
        if leader != kind:
            if self._inputs.get(leader) is not inputs:
                raise QuantizationError(
                    f"{kind} and {leader} read one input in the first calibration pass but not in "
                    "a later one; this model routes activations in a way that is not supported"
                )
            return
        if kind not in self._statistics:
            in_features = inputs.shape[-1]
            zeros = torch.zeros(in_features, in_features, device=inputs.device)
            self._statistics[kind] = InputStatistics(zeros)
        self._statistics[kind].add(inputs)


class _LinearWatch(TorchFunctionMode):
    """Sees ``functional.linear`` calls whose weight is a known slice of a fused parameter."""

    def __init__(self, experts: dict[int, LinearSlot], see: Any) -> None:  # noqa: ANN401
        super().__init__()
        self._experts, self._see_slice = experts, see

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if func is nn.functional.linear and self._experts and len(args) > 1:
            slot = self._experts.get(args[1].data_ptr())
            if slot is not None and tuple(args[1].shape) == slot.shape:
                self._see_slice(slot, args[0])
        return func(*args, **(kwargs or {}))
