"""CRVQ whose code widths differ from layer to layer, chosen for the model's total of bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crvq.errors import ConfigError
from crvq.methods.allocation import LayerCosts, allocate
from crvq.methods.budget import BudgetError
from crvq.methods.crvq import CrvqMethod
from crvq.methods.crvq_budget import crvq_bits
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.methods.overridden import own_set
from crvq.vq.hessian import output_loss
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight

_PROBED_ROUNDS = 2
"""Rounds of the alternation in a probe: later ones lower all widths' losses alike."""


class AllocatedMethod(Method[CrvqParams]):
    """Measures what each kind of linear layer loses at a few widths, then divides the bits.

    A few blocks are looked at in full precision. Each is quantized by a part of its rows at the
    narrowest, a middle and the widest width; in between and beyond, the logarithm of the loss is
    taken to be linear in the width, and linear in depth between the blocks looked at. What is made
    small is the sum over all layers of ``tr(E H Eᵀ)`` times the mean squared gradient of the
    model's loss in the layer's outputs (``fisher``), or divided by ``tr(W H Wᵀ)`` (``relative``).

    Args:
        params: ``allocation=model``; ``codebook_scope=block``.
        seed: of the run.
    """

    quantizes, fits_budgets, uses_solver = True, True, True

    def __init__(self, params: CrvqParams, seed: int) -> None:
        super().__init__(params, seed)
        self._methods: dict[int, CrvqMethod] = {}
        self._count = 0
        self._widths: list[dict[str, int]] = []
        """Of each block, by kind of layer."""

    @property
    def divides_blocks(self) -> bool:
        """Layers that share codebooks are quantized together."""
        return False

    @property
    def wants_sensitivity(self) -> bool:
        """Errors of outputs count by the model's loss, and not by their size."""
        return self.params.allocation_objective == "fisher"

    def prepare_blocks(self, count: int) -> Sequence[int]:
        """Evenly spread blocks."""
        self._count = count
        wanted = min(self.params.allocation_blocks, count)
        return sorted({round((i + 0.5) * count / wanted - 0.5) for i in range(wanted)})

    def prepare(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Probe the blocks, and divide the bits."""
        if not blocks:
            return  # resumed: `restore_plan` follows
        places = self.prepare_blocks(self._count)
        curves = [self._probe(place, block) for place, block in zip(places, blocks, strict=True)]
        shapes = [LinearShape(x.kind, *x.weight.shape) for x in blocks[0]]
        self._widths = self._divide(places, curves, shapes)

    def plan(self) -> dict[str, Any]:
        """Return the widths of all blocks by kind, as JSON can hold them."""
        return {"codebook_bits": self._widths}

    def restore_plan(self, plan: Mapping[str, Any]) -> None:
        """Take back what `plan` returned."""
        self._widths = [dict(block) for block in plan["codebook_bits"]]

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the layers of each width together; they share codebooks."""
        groups: dict[int, list[LinearInput]] = {}
        for linear in linears:
            groups.setdefault(self._width(block, linear.kind), []).append(linear)
        for number, width in enumerate(sorted(groups)):
            for done in self._of_width(width).quantize_block(block, groups[width]):
                yield replace(done, weight=own_set(done.weight, number)) if number else done

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Nothing: codebooks of one block do not depend on another's."""

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount:
        """Return the bits that the division is to come to, as if all codes had one width."""
        return CrvqMethod(self.params, self.seed).count_bits(shapes)

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> CrvqParams:
        """Return the parameters with the budget in them; the division follows the probes."""
        narrowest = self._with_width(self.params.allocation_widths[0])
        least = CrvqMethod(narrowest, self.seed).count_bits(shapes).total
        weights = sum(shape.out_features * shape.in_features for shape in shapes)
        if least > bits * weights:
            raise BudgetError(
                f"budget.bits={bits:g}: codes of {self.params.allocation_widths[0]} bits take "
                f"{least / weights:.3f}; set crvq.allocation_widths to narrower ones",
                least / weights,
            )
        return self.params.model_copy(update={"allocation_bits": bits})

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """The mean width of codes, weighted by weights, and the widths of all layers."""
        if not self._widths:
            return {}
        per_block = len(shapes) // len(self._widths)
        mean = total = 0.0
        for place, block in enumerate(self._widths):
            for kind, rows, columns in shapes[place * per_block : (place + 1) * per_block]:
                mean += block.get(kind, self.params.codebook_bits) * rows * columns
                total += rows * columns
        return {"codebook_bits": mean / total, "code_widths": self._widths}

    def _probe(self, place: int, linears: Sequence[LinearInput]) -> dict[str, dict[int, float]]:
        """Return the relative loss of each kind of layer by width, on a part of its rows."""
        parts = [
            replace(one, weight=one.weight[:: self.params.allocation_rows].contiguous())
            for one in linears
        ]
        whole = {one.kind: one for one in linears}
        widths = self.params.allocation_widths
        found: dict[str, dict[int, float]] = {one.kind: {} for one in linears}
        for width in sorted({widths[0], (widths[0] + widths[1]) // 2, widths[1]}):
            params = self._with_width(width).model_copy(update={"max_rounds": _PROBED_ROUNDS})
            for done in CrvqMethod(params, self.seed).quantize_block(place, parts):
                loss = done.relative_loss * self._size(whole[done.source.kind])
                found[done.source.kind][width] = max(loss, 1e-30)
        return found

    def _size(self, linear: LinearInput) -> float:
        """What losing all of a layer would cost."""
        if linear.sensitivity is None:
            return 1.0
        return output_loss(linear.weight, linear.hessian.matrix) * linear.sensitivity

    def _divide(
        self,
        places: Sequence[int],
        curves: Sequence[Mapping[str, Mapping[int, float]]],
        shapes: Sequence[LinearShape],
    ) -> list[dict[str, int]]:
        low, high = self.params.allocation_widths
        widths = range(low, high + 1)
        # Code bits alone, and the codebooks of a width: everything else is the same for any width.
        bits = {w: [self._bits(w, shape, shapes) for shape in shapes] for w in widths}
        storage = {w: sum(one.codebooks for one in bits[w]) for w in widths}
        every = self._count * sum(shape.out_features * shape.in_features for shape in shapes)
        wanted = self.params.allocation_bits
        if wanted is None:
            wanted_bits = self._count * sum(
                self._bits(self.params.codebook_bits, shape, shapes).total for shape in shapes
            )
        else:
            wanted_bits = wanted * every
        costs = [
            [
                LayerCosts(
                    {w: _loss(places, [c[shape.kind] for c in curves], block, w) for w in widths},
                    {w: bits[w][n].total - bits[w][n].codebooks for w in widths},
                )
                for n, shape in enumerate(shapes)
            ]
            for block in range(self._count)
        ]
        try:
            chosen = allocate(costs, storage, wanted_bits)
        except ValueError as error:
            raise ConfigError(f"crvq.allocation=model: {error} for {wanted_bits:.0f}") from error
        return [
            {shape.kind: width for shape, width in zip(shapes, own, strict=True)} for own in chosen
        ]

    def _bits(self, width: int, shape: LinearShape, block: Sequence[LinearShape]) -> BitCount:
        return crvq_bits(self._with_width(width), shape, block)

    def _width(self, block: int, kind: str) -> int:
        return self._widths[block].get(kind, self.params.codebook_bits)

    def _of_width(self, width: int) -> CrvqMethod:
        if width not in self._methods:
            self._methods[width] = CrvqMethod(self._with_width(width), self.seed)
        return self._methods[width]

    def _with_width(self, width: int) -> CrvqParams:
        return self.params.model_copy(update={"codebook_bits": width, "allocation": "fixed"})


def _loss(
    places: Sequence[int], curves: Sequence[Mapping[int, float]], block: int, width: int
) -> float:
    """Return the loss at a width in any block, from probes of some: interpolated logarithms."""
    at = [math.exp(_line(sorted(curve), [math.log(curve[w]) for w in sorted(curve)], width))
          for curve in curves]  # fmt: skip
    nearest = min(max(block, places[0]), places[-1])
    return math.exp(_line(list(places), [math.log(one) for one in at], nearest))


def _line(points: Sequence[int], values: Sequence[float], at: float) -> float:
    """Return the value of the broken line through points; a single point is a constant."""
    if len(points) == 1:
        return values[0]
    part = min(max(sum(at >= point for point in points) - 1, 0), len(points) - 2)
    share = (at - points[part]) / (points[part + 1] - points[part])
    return values[part] + share * (values[part + 1] - values[part])
