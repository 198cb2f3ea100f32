"""The parts of a quantized weight that can be trained, and the way back to what is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import singledispatch
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from crvq.config.finetune import TrainedKind
from crvq.vq.storage import to_float16
from crvq.weights.quantized import QuantizedWeight

PartKind = TrainedKind
"""Declared with the configuration; norms are no part of a quantized weight."""
Parts = Mapping[str, Tensor]
Importance = tuple[Tensor, Tensor]
"""Factors of rows ``(out,)`` and columns ``(in,)``; a weight's importance is their product."""
W = TypeVar("W", bound=QuantizedWeight)

# Gradients of so many vectors are summed by one worker: on a GPU, a bag is summed in sequence.
_CHUNK = 512


class TrainableWeight(ABC, Generic[W]):
    """A quantized weight as a differentiable function of its continuous parts.

    Codes are fixed between calls of `load` and `move_codes`, which PV-Tuning (arXiv 2405.14852)
    calls while it trains. What is best so far, and what a resumed training starts from, is hence
    a snapshot (a `QuantizedWeight`) and not the parts alone.

    Args:
        weight: as quantized.
        device: of training.
    """

    parts: dict[str, Tensor]
    """Float32 values by name, as they were stored when the weight was loaded, on ``device``."""

    def __init__(self, weight: W, device: torch.device) -> None:
        self.device = device
        self.load(weight)

    @abstractmethod
    def load(self, weight: W) -> None:
        """Take over a weight of the same shape and format: its codes, and ``parts``."""

    def snapshot(self, parts: Parts | None = None) -> W:
        """Return the weight as it would be stored now: present codes, and ``parts`` rounded.

        Args:
            parts: values of all parts; None: those that were loaded.
        """
        return self.quantized(self.parts if parts is None else parts)

    @property
    def code_groups(self) -> int:
        """How many groups of codes `move_codes` can change; 0: codes of this format stay."""
        return 0

    def move_codes(
        self, parts: Parts, target: Tensor, importance: Importance, limit: int, beam: int
    ) -> int:
        """Choose new codes for the groups that come nearest to a target by it.

        Groups whose weighted squared distance falls most change first. Snapshots taken before keep
        their codes.

        Args:
            parts: values of all parts, which stay.
            target: ``(out, in)``.
            importance: weights of the squared distance.
            limit: groups that may change at most.
            beam: candidates kept where several codebooks cover a group.

        Returns:
            How many groups changed.
        """
        raise NotImplementedError(f"{type(self).__name__} has fixed codes")

    def changed_groups(self, weight: W) -> int:
        """Return in how many groups the present codes differ from a weight's."""
        return 0

    @abstractmethod
    def kind(self, name: str) -> PartKind:
        """Return what sort of part that is."""

    def owner(self, name: str) -> str | None:
        """Return the set of weights that shares this part; None: this weight alone has it."""
        return None

    @abstractmethod
    def dense(self, parts: Parts) -> Tensor:
        """Return the weight ``(out, in)`` for values of all parts, in natural order."""

    @abstractmethod
    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """Return each part's gradient, from that of ``dense(parts)`` ``(out, in)``."""

    @abstractmethod
    def stored(self, name: str, value: Tensor) -> Tensor:
        """Return a part's value as it comes back from storage.

        Raises:
            StorageRangeError: it is not finite, or exceeds what its storage holds.
        """

    @abstractmethod
    def quantized(self, parts: Parts) -> W:
        """Return the weight with these values (rounded to storage), on its own device."""


@singledispatch
def trainable(weight: QuantizedWeight, device: torch.device) -> TrainableWeight | None:
    """Make a weight ready for training on ``device``; None if its format has nothing to train.

    A format joins with ``@trainable.register``, in its own file.
    """
    return None


class TrainableNumbers(TrainableWeight[W]):
    """A weight whose own decoding is differentiable in some of its float16 numbers.

    For formats that are dataclasses; the gradient comes from autograd through `dequantize`.
    Subclasses name the numbers.
    """

    numbers: tuple[str, ...]
    """Names of the dataclass fields that are trained; those that are None are left out."""

    def load(self, weight: W) -> None:
        """Keep a copy of the weight on the device of training."""
        self._weight = weight
        held = {one.name: getattr(weight, one.name) for one in fields(cast(Any, weight))}
        there = {
            name: part.to(self.device) for name, part in held.items() if isinstance(part, Tensor)
        }
        self._there = _with(weight, there)
        self.parts = {name: there[name] for name in self.numbers if name in there}

    def kind(self, name: str) -> PartKind:
        """Return all are scales."""
        return "scales"

    def dense(self, parts: Parts) -> Tensor:
        """Decode with these numbers."""
        return _with(self._there, parts).dequantize()

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """By autograd through the decoding."""
        with torch.enable_grad():
            free = {name: part.detach().requires_grad_() for name, part in parts.items()}
            # Numbers that this weight does not use (scales of no columns) have a gradient of zero.
            found = torch.autograd.grad(
                self.dense(free),
                list(free.values()),
                gradient,
                allow_unused=True,
                materialize_grads=True,
            )
        return dict(zip(free, found, strict=True))

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Round to float16."""
        return to_float16(value, name)

    def quantized(self, parts: Parts) -> W:
        """Same signs, masks and codes."""
        own = {name: getattr(self._weight, name).device for name in parts}
        stored = {name: self.stored(name, part).to(own[name]) for name, part in parts.items()}
        return _with(self._weight, stored)


def _with(weight: W, parts: Mapping[str, Tensor]) -> W:
    """Return the weight with other values of some fields."""
    return cast(W, replace(cast(Any, weight), **parts))


class EntryGradients:
    """Sums the gradients of decoded vectors by codebook entry: the adjoint of a lookup.

    Codes stay fixed between two `TrainableWeight.load`, so where each entry is used is sorted out
    once. A segmented sum over these places takes a tenth of `index_add_`'s time on a CPU, and adds
    in a fixed order on a GPU too.

    Args:
        codes: of each vector, flat, ``(vectors,)``.
        entries: of the codebook.
    """

    def __init__(self, codes: Tensor, entries: int) -> None:
        uses = torch.bincount(codes, minlength=entries)
        self._places = codes.argsort(stable=True).int()
        chunks = (uses + _CHUNK - 1) // _CHUNK
        owner = torch.arange(entries, device=codes.device).repeat_interleave(chunks)
        self._chunk_starts = _starts(chunks)
        number = torch.arange(len(owner), device=codes.device) - self._chunk_starts[owner]
        self._starts = (_starts(uses)[owner] + number * _CHUNK).int()
        self._chunk_places = torch.arange(len(owner), device=codes.device)

    def __call__(self, gradients: Tensor) -> Tensor:
        """Return ``(entries, d)`` from ``(vectors, d)``."""
        sums = functional.embedding_bag(self._places, gradients, self._starts, mode="sum")
        return functional.embedding_bag(self._chunk_places, sums, self._chunk_starts, mode="sum")


def _starts(counts: Tensor) -> Tensor:
    """Return where each run begins when runs of these lengths follow each other."""
    return counts.cumsum(0) - counts
