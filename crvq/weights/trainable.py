"""The parts of a quantized weight that can be trained while its codes stay as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import singledispatch
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from crvq.weights.quantized import QuantizedWeight

PartKind = Literal["codebooks", "scales"]
Parts = Mapping[str, Tensor]

# Gradients of so many vectors are summed by one worker: on a GPU, a bag is summed in sequence.
_CHUNK = 512


class TrainableWeight(ABC):
    """A quantized weight as a differentiable function of its continuous parts.

    Codes are fixed here. A method that changes codes while it trains (PV-Tuning,
    arXiv 2405.14852) makes a new object from the weight with the new codes.
    """

    parts: dict[str, Tensor]
    """Float32 values by name, as they are stored now, on the device of training."""

    @abstractmethod
    def kind(self, name: str) -> PartKind:
        """What sort of part that is."""

    def owner(self, name: str) -> str | None:
        """The set of weights that has this part in common; None: this weight alone."""
        return None

    @abstractmethod
    def dense(self, parts: Parts) -> Tensor:
        """The weight ``(out, in)`` for values of all parts, in their dtype, natural order."""

    @abstractmethod
    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """The gradient with respect to each part, from that of ``dense(parts)`` ``(out, in)``."""

    @abstractmethod
    def stored(self, name: str, value: Tensor) -> Tensor:
        """A part's value as it comes back from storage.

        Raises:
            ValueError: it is not finite, or exceeds what its storage holds.
        """

    @abstractmethod
    def quantized(self, parts: Parts) -> QuantizedWeight:
        """The quantized weight with these values (rounded to storage), on its own device."""


@singledispatch
def trainable(weight: QuantizedWeight, device: torch.device) -> TrainableWeight | None:
    """The weight made ready for training on ``device``; None if its format has nothing to train.

    A format joins with ``@trainable.register`` in a module of `crvq.weights`.
    """
    return None


class EntryGradients:
    """Sums the gradients of decoded vectors by codebook entry: the adjoint of a lookup.

    Codes stay fixed over a training, so where each entry is used is sorted out once. A segmented
    sum over these places takes a tenth of `index_add_`'s time on a CPU, and adds in a fixed order
    on a GPU too.

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
        """``(entries, d)`` from ``(vectors, d)``."""
        sums = functional.embedding_bag(self._places, gradients, self._starts, mode="sum")
        return functional.embedding_bag(self._chunk_places, sums, self._chunk_starts, mode="sum")


def _starts(counts: Tensor) -> Tensor:
    """Where each run begins when runs of these lengths lie behind one another."""
    return counts.cumsum(0) - counts
