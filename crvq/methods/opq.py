"""OPQ: sparsity and step of each layer from the distribution of its weights, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape, QuantizedLinear
from crvq.methods.registry import register_method
from crvq.methods.scalar_params import OpqParams
from crvq.vq.storage import to_positive_float16
from crvq.weights.bits import BitCount
from crvq.weights.masked_grids import MaskedGridsSizes, MaskedGridsWeight

_SPARSITIES = [part / 20 for part in range(20)]


@register_method("opq")
class OpqMethod(LinearByLinear[OpqParams]):
    """OPQ (arXiv 2205.11141): analytic one-shot pruning and quantization, blind to activations.

    Weights of a layer are taken as Laplacian with mean magnitude b. Pruning all below β loses
    ``∂loss / ∂kept = β²`` at the margin, so that with one Lagrange multiplier for all layers of a
    block every layer has the same β, and keeps ``exp(-β / b)`` of its weights; β is the one that
    leaves ``1 - sparsity`` of the block's. All channels of a layer share one step: the one that
    loses least between rounding (``step² / 12``) and clipping what lies beyond the last level
    (``2 b² exp(-excess / b)`` for an exponential tail).

    The formulas are derived here from that description; the paper's text was not at hand. The paper
    allots over the whole network, here a block at a time, and then trains with masks and steps
    fixed: ``finetune=block`` trains steps. It was made for CNNs.

    Budget rule: 4, 3, 2 or 8 bits per code in this order, with the least sparsity that it pays for.
    """

    Params: ClassVar[type[StrictModel]] = OpqParams
    _kept: dict[str, int]

    @property
    def divides_blocks(self) -> bool:
        """Return False: layers of a block share a threshold."""
        return False

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Find the threshold, then quantize layer by layer."""
        sizes = [float(linear.weight.abs().double().mean()) for linear in linears]
        numbers = [linear.weight.numel() for linear in linears]
        kept = laplace_kept(sizes, numbers, 1 - self.params.sparsity)
        self._kept = {linear.name: part for linear, part in zip(linears, kept, strict=True)}
        yield from super().quantize_block(block, linears)

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Keep the largest weights, and round them with the layer's step."""
        weight, bits = linear.weight, self.params.bits
        mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        order = weight.abs().flatten().argsort(descending=True, stable=True)
        mask[order[: self._kept[linear.name]]] = True
        mask = mask.view_as(weight)
        middle, size = 2 ** (bits - 1), float(weight.abs().double().mean())
        threshold = float(weight[mask].abs().min()) if bool(mask.any()) else 0.0
        step = best_step(threshold, size, max(1, middle - 1))
        steps = to_positive_float16(weight.new_tensor([step]))
        codes = ((weight / steps).round().long() + middle).clamp(0, 2**bits - 1)
        nothing = weight.new_zeros(len(weight), 1)
        stored = MaskedGridsWeight(
            marked_bits=bits,
            other_bits=0,
            group_size=weight.shape[1],
            mask=mask,
            codes=codes,
            marked_steps=steps,
            marked_zeros=torch.full_like(steps, middle, dtype=torch.int64),
            steps=nothing + 1,
            zeros=nothing.long(),
        )
        return Rounded(stored)

    def layouts(self) -> Iterable[OpqParams]:
        """Most bits first, then least sparsity."""
        for bits in (4, 3, 2, 8):
            for sparsity in _SPARSITIES:
                yield self.params.model_copy(update={"bits": bits, "sparsity": sparsity})

    def count(self, params: OpqParams, shape: LinearShape) -> BitCount:
        """Return the bits of a linear that keeps the block's part of its weights."""
        _, rows, columns = shape
        return MaskedGridsWeight.count(
            MaskedGridsSizes(
                out_features=rows,
                in_features=columns,
                marked_bits=params.bits,
                other_bits=0,
                group_size=columns,
                per_layer=rows > 1,
                marked=round((1 - params.sparsity) * rows * columns),
            )
        )


def laplace_kept(sizes: Sequence[float], numbers: Sequence[int], part: float) -> list[int]:
    """Return how many weights each layer keeps when one threshold leaves ``part`` of all.

    Args:
        sizes: mean magnitude b of each layer.
        numbers: weights of each layer.
        part: of all weights together.
    """
    total = part * sum(numbers)
    low, high = 0.0, 50 * max(sizes)
    if part < 1:
        for _ in range(80):
            middle = (low + high) / 2
            kept = sum(n * exp(-middle / b) for b, n in zip(sizes, numbers, strict=True) if b)
            low, high = (middle, high) if kept > total else (low, middle)
    found = [n * exp(-low / b) if b else 0.0 for b, n in zip(sizes, numbers, strict=True)]
    # Zero layers keep nothing; where all are, the count is still what was asked for.
    if not sum(found):
        found = [part * n for n in numbers]
    whole = [int(one) for one in found]
    # Largest remainders first, so that the block keeps exactly its number.
    rest = sorted(range(len(found)), key=lambda place: whole[place] - found[place])
    for place in rest[: max(0, round(total) - sum(whole))]:
        whole[place] += 1
    return whole


def best_step(threshold: float, size: float, levels: int) -> float:
    """Return the step of least loss for magnitudes above a threshold with an exponential tail.

    ``s² / 12 + 2 b² exp(-(s L - β) / b)`` is convex in s; its derivative's zero is bracketed.
    """
    if not size:
        return 1.0
    low, high = max(threshold, 1e-9 * size) / levels, (threshold + 60 * size) / levels
    for _ in range(80):
        middle = (low + high) / 2
        slope = log(middle / 6) - log(2 * levels * size) + (middle * levels - threshold) / size
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low + high) / 2
