"""CRVQ whose codes differ from layer to layer, chosen for the model's total of bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crvq.errors import ConfigError
from crvq.methods.allocation import LayerCosts, Layout, allocate
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

_SPREAD = 1.6
"""Code bits per weight further than this factor from the budget are not looked at."""


class AllocatedMethod(Method[CrvqParams]):
    """Measures what each kind of linear layer loses at a few widths, then divides the bits.

    A few blocks are looked at in full precision. Each is quantized by a part of its rows, for each
    vector length, at the narrowest, a middle and the widest width; in between and beyond, the
    logarithm of the loss is taken to be linear in the width, and linear in depth between the blocks
    looked at. What is made small is the sum over all layers of ``tr(E H Eᵀ)`` times the mean
    squared gradient of the model's loss in the layer's outputs (``fisher``), or divided by
    ``tr(W H Wᵀ)`` (``relative``).

    Args:
        params: ``allocation=model``; ``codebook_scope=block``.
        seed: of the run.
    """

    quantizes, fits_budgets, uses_solver = True, True, True

    def __init__(self, params: CrvqParams, seed: int) -> None:
        super().__init__(params, seed)
        self._methods: dict[Layout, CrvqMethod] = {}
        self._count = 0
        self._layouts: list[dict[str, Layout]] = []
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
        shapes = [LinearShape(x.kind, *x.weight.shape) for x in blocks[0]]
        choices = self._choices(shapes)
        curves = [
            self._probe(place, block, choices) for place, block in zip(places, blocks, strict=True)
        ]
        self._layouts = self._divide(places, curves, shapes)

    def plan(self) -> dict[str, Any]:
        """Return the widths of all blocks by kind and their vector lengths, as JSON can hold it."""
        return {
            "codebook_bits": self._widths(),
            "group_sizes": [next(iter(own.values())).group_size for own in self._layouts],
        }

    def restore_plan(self, plan: Mapping[str, Any]) -> None:
        """Take back what `plan` returned."""
        widths = plan["codebook_bits"]
        lengths = plan.get("group_sizes", [self.params.group_size] * len(widths))
        self._layouts = [
            {kind: Layout(length, width) for kind, width in own.items()}
            for length, own in zip(lengths, widths, strict=True)
        ]

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the layers of each layout together; they share codebooks."""
        groups: dict[Layout, list[LinearInput]] = {}
        for linear in linears:
            groups.setdefault(self._layout(block, linear.kind), []).append(linear)
        for number, layout in enumerate(sorted(groups)):
            for done in self._with(layout).quantize_block(block, groups[layout]):
                yield replace(done, weight=own_set(done.weight, number)) if number else done

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Nothing: codebooks of one block do not depend on another's."""

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount:
        """Return the bits that the division comes to: of the one layout that nearly fills them."""
        wanted = self.params.allocation_bits
        if wanted is None:
            return self._with(self._usual).count_bits(shapes)
        counts = [self._with(layout).count_bits(shapes) for layout in self._every_layout()]
        fitting = [one for one in counts if one.total <= wanted * _weights(shapes)]
        return max(fitting or counts, key=lambda one: one.total)

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> CrvqParams:
        """Return the parameters with the budget in them; the division follows the probes."""
        low = self.params.allocation_widths[0]
        least = min(
            CrvqMethod(self._params(Layout(length, low)), self.seed).count_bits(shapes).total
            for length in self._lengths
        )
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
        if not self._layouts:
            return {}
        per_block = len(shapes) // len(self._layouts)
        widths = lengths = total = 0.0
        for place, block in enumerate(self._layouts):
            for kind, rows, columns in shapes[place * per_block : (place + 1) * per_block]:
                layout = block.get(kind, self._usual)
                widths += layout.codebook_bits * rows * columns
                lengths += layout.group_size * rows * columns
                total += rows * columns
        found = {"codebook_bits": widths / total, "code_widths": self._widths()}
        if self.params.allocation_group_sizes:
            found |= {"group_size": lengths / total, "group_sizes": self.plan()["group_sizes"]}
        return found

    @property
    def _lengths(self) -> tuple[int, ...]:
        return self.params.allocation_group_sizes or (self.params.group_size,)

    @property
    def _usual(self) -> Layout:
        return Layout(self.params.group_size, self.params.codebook_bits)

    def _one_for_all(self) -> Layout:
        """Return the layout that all codes would have if bits were not divided."""
        wanted = self.params.allocation_bits
        if wanted is None:
            return self._usual
        rates = {
            layout: layout.codebook_bits / layout.group_size for layout in self._every_layout()
        }
        # Codes are nearly all of the bits; of equal rates the longer vector loses less.
        return min(rates, key=lambda x: (abs(rates[x] - wanted), -x.group_size))

    def _every_layout(self) -> list[Layout]:
        low, high = self.params.allocation_widths
        return [Layout(d, width) for d in self._lengths for width in range(low, high + 1)]

    def _widths(self) -> list[dict[str, int]]:
        return [
            {kind: layout.codebook_bits for kind, layout in own.items()} for own in self._layouts
        ]

    def _choices(self, shapes: Sequence[LinearShape]) -> dict[int, list[int]]:
        """Return the widths to choose from by vector length, each in rising order.

        Of several lengths, only those are looked at whose code bits can be near the wanted ones.
        """
        low, high = self.params.allocation_widths
        widths = list(range(low, high + 1))
        if len(self._lengths) == 1:
            return {self._lengths[0]: widths}
        wanted = self._wanted_bits(shapes) / _weights(shapes)
        near = {
            length: [w for w in widths if wanted / _SPREAD <= w / length <= wanted * _SPREAD]
            for length in self._lengths
        }
        found = {length: own for length, own in near.items() if own and own[0] / length < wanted}
        if not found:
            raise ConfigError(
                f"crvq.allocation=model: with crvq.allocation_widths=[{low},{high}] none of "
                f"crvq.allocation_group_sizes={list(self._lengths)} has codes of about "
                f"{wanted:.3f} bits per weight; add longer or shorter ones"
            )
        return found

    def _wanted_bits(self, block: Sequence[LinearShape]) -> float:
        """Return the bits that one block may take on average."""
        if self.params.allocation_bits is not None:
            return self.params.allocation_bits * _weights(block)
        return sum(self._bits(self._usual, shape, block).total for shape in block)

    def _probe(
        self, place: int, linears: Sequence[LinearInput], choices: Mapping[int, Sequence[int]]
    ) -> dict[str, dict[Layout, float]]:
        """Return the loss of each kind of layer at a few layouts, on a part of its rows."""
        parts = [
            replace(one, weight=one.weight[:: self.params.allocation_rows].contiguous())
            for one in linears
        ]
        whole = {one.kind: one for one in linears}
        found: dict[str, dict[Layout, float]] = {one.kind: {} for one in linears}
        for length, widths in choices.items():
            for width in sorted({widths[0], (widths[0] + widths[-1]) // 2, widths[-1]}):
                layout = Layout(length, width)
                params = self._params(layout).model_copy(update={"max_rounds": _PROBED_ROUNDS})
                for done in CrvqMethod(params, self.seed).quantize_block(place, parts):
                    loss = done.relative_loss * self._size(whole[done.source.kind])
                    found[done.source.kind][layout] = max(loss, 1e-30)
        return found

    def _size(self, linear: LinearInput) -> float:
        """What losing all of a layer would cost."""
        if linear.sensitivity is None:
            return 1.0
        return output_loss(linear.weight, linear.hessian.matrix) * linear.sensitivity

    def _divide(
        self,
        places: Sequence[int],
        curves: Sequence[Mapping[str, Mapping[Layout, float]]],
        shapes: Sequence[LinearShape],
    ) -> list[dict[str, Layout]]:
        layouts = [
            Layout(length, width)
            for length, widths in self._choices(shapes).items()
            for width in widths
        ]
        # Code bits alone, and the codebooks of a layout; a set of codebooks is paid for once.
        bits = {x: [self._bits(x, shape, shapes) for shape in shapes] for x in layouts}
        storage = {x: sum(one.codebooks for one in bits[x]) for x in layouts}
        wanted = self._count * self._wanted_bits(shapes)
        costs = [
            [
                LayerCosts(
                    {x: _loss(places, [c[shape.kind] for c in curves], block, x) for x in layouts},
                    {x: bits[x][n].total - bits[x][n].codebooks for x in layouts},
                )
                for n, shape in enumerate(shapes)
            ]
            for block in range(self._count)
        ]
        try:
            chosen = allocate(costs, storage, wanted)
        except ValueError as error:
            raise ConfigError(f"crvq.allocation=model: {error} for {wanted:.0f}") from error
        return [
            {shape.kind: layout for shape, layout in zip(shapes, own, strict=True)}
            for own in chosen
        ]

    def _bits(self, layout: Layout, shape: LinearShape, block: Sequence[LinearShape]) -> BitCount:
        return crvq_bits(self._params(layout), shape, block)

    def _layout(self, block: int, kind: str) -> Layout:
        if not self._layouts:  # nothing was divided: a layer is quantized for its time alone
            return self._one_for_all()
        own = self._layouts[block]
        usual = next(iter(own.values()), self._usual)
        return own.get(kind, Layout(usual.group_size, self.params.codebook_bits))

    def _with(self, layout: Layout) -> CrvqMethod:
        if layout not in self._methods:
            self._methods[layout] = CrvqMethod(self._params(layout), self.seed)
        return self._methods[layout]

    def _params(self, layout: Layout) -> CrvqParams:
        return self.params.model_copy(update={**layout._asdict(), "allocation": "fixed"})


def _weights(shapes: Sequence[LinearShape]) -> int:
    return sum(shape.out_features * shape.in_features for shape in shapes)


def _loss(
    places: Sequence[int],
    curves: Sequence[Mapping[Layout, float]],
    block: int,
    layout: Layout,
) -> float:
    """Return the loss at a layout in any block, from probes of some: interpolated logarithms."""
    at = []
    for curve in curves:
        own = {x.codebook_bits: y for x, y in curve.items() if x.group_size == layout.group_size}
        points = sorted(own)
        at.append(_line(points, [math.log(own[w]) for w in points], layout.codebook_bits))
    nearest = min(max(block, places[0]), places[-1])
    return math.exp(_line(list(places), at, nearest))


def _line(points: Sequence[int], values: Sequence[float], at: float) -> float:
    """Return the value of the broken line through points; a single point is a constant."""
    if len(points) == 1:
        return values[0]
    part = min(max(sum(at >= point for point in points) - 1, 0), len(points) - 2)
    share = (at - points[part]) / (points[part + 1] - points[part])
    return values[part] + share * (values[part + 1] - values[part])
