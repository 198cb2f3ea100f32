"""What methods share that quantize each linear by itself and fit nothing beforehand."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from crvq.errors import QuantizationError
from crvq.methods.budget import fit_layout
from crvq.methods.method import LinearInput, LinearShape, Method, P, QuantizedLinear
from crvq.methods.notes import clipped_notes, dead_channels_notes
from crvq.methods.parallel_map import parallel_map
from crvq.vq.hessian import Hessian, HessianError, output_loss
from crvq.vq.storage import SMALLEST_HALF, StorageRangeError
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight

_FEW_STEPS = 64
"""Numbers below so many of float16's smallest steps are stored coarsely."""


@dataclass
class Rounded:
    """A quantized weight and how it came about."""

    weight: QuantizedWeight
    rounds: int = 1
    notes: list[str] = field(default_factory=list)


class LinearByLinear(Method[P]):
    """A method without anything that linears share.

    The reported loss is that of the dequantized weight under the Hessian as given.
    """

    fits_budgets: ClassVar[bool] = True

    @abstractmethod
    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Quantize one linear; called from several threads at once."""

    def layouts(self) -> Iterable[P]:
        """Parameters that a budget may choose from, the best first; default: the present ones."""
        yield self.params

    @abstractmethod
    def count(self, params: P, shape: LinearShape) -> BitCount:
        """The bits of a linear of some shape; an upper limit where they depend on its values."""

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize a block's linears, as many at a time as there are CPU threads."""
        if not linears:
            return
        sizes = [linear.weight.numel() * linear.weight.shape[1] for linear in linears]
        yield from parallel_map(self._timed, linears, sizes, linears[0].weight.device.type)

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount:
        """Return the bits of all linear layers of these shapes."""
        return sum((self.count(self.params, shape) for shape in shapes), BitCount())

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> P:
        """Return the first of `layouts` that comes to ``bits``; see `crvq.methods.budget`."""
        return fit_layout(bits, shapes, self.layouts(), self.count)

    def _rounded(self, linear: LinearInput) -> Rounded:
        try:
            return self.quantize_linear(linear)
        except (HessianError, StorageRangeError) as error:
            raise QuantizationError(f"{linear.name}: {error}") from error

    def _timed(self, linear: LinearInput) -> QuantizedLinear:
        start = time.perf_counter()
        matrix = linear.hessian.matrix
        energy = output_loss(linear.weight, matrix)
        rounded = self._rounded(linear)
        loss = output_loss(linear.weight - rounded.weight.dequantize(), matrix)
        if loss > energy and float(linear.weight.abs().max()) < _FEW_STEPS * SMALLEST_HALF:
            # Scales this small are stored coarsely: leaving the layer out loses less.
            rounded = self._rounded(replace(linear, weight=torch.zeros_like(linear.weight)))
            loss = output_loss(linear.weight - rounded.weight.dequantize(), matrix)
        notes = [*rounded.notes, *dead_channels_notes(linear.hessian.dead_channels)]
        notes += clipped_notes(rounded.weight)
        return QuantizedLinear(
            source=linear,
            weight=rounded.weight,
            loss=loss / len(linear.weight),
            relative_loss=loss / energy if energy > 0 else 0.0,
            rounds=rounded.rounds,
            seconds=time.perf_counter() - start,
            notes=notes,
        )


def damped_hessian(linear: LinearInput, damping: float, multiple: int = 1) -> Hessian:
    """The Hessian of a linear's input, padded with dead channels to a multiple of channels.

    One object for all linears that read the input.

    Args:
        linear: the linear.
        damping: of H's inverse, relative to the mean of H's diagonal.
        multiple: d; 1 pads nothing.
    """
    return linear.hessian.padded(multiple, damping)


def damping_notes(hessian: Hessian) -> list[str]:
    """Says so if the damping asked for was not enough."""
    if hessian.damping_used <= hessian.damping:
        return []
    return [
        f"damping grew from {hessian.damping:g} to {hessian.damping_used:g} before H was "
        "positive definite"
    ]
