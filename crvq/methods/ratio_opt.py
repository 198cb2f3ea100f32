"""Layer-wise ratio of high-impact weights: more bits for them, how many is chosen per layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape, QuantizedLinear
from crvq.methods.registry import register_method
from crvq.methods.scalar_params import RatioOptParams
from crvq.vq.clipping import ClippedGrids, learn_clipping
from crvq.vq.hessian import output_loss
from crvq.vq.uniform_grid import fit_grid, grid_codes
from crvq.weights.bits import BitCount
from crvq.weights.masked_grids import MaskedGridsSizes, MaskedGridsWeight

_CANDIDATES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)


@register_method("ratio_opt")
class RatioOptMethod(LinearByLinear[RatioOptParams]):
    """Layer-wise high-impact parameter ratio (arXiv 2511.17801).

    High-impact weights, by diagonal Fisher (here ``H_jj w²``, H for the gradient's second moment),
    take 4 bits; all others 2 bits with OmniQuant's clipping. How many there are is chosen for each
    layer: the loss at each candidate ratio is measured, and of all choices that take no more bits
    than ``ratio`` everywhere, the one of least summed loss is approached by a Lagrange multiplier.

    The paper's quadratic form also has products of two layers' errors inside a block; a method here
    does not see the block's output, so only its diagonal is used, with each layer's loss relative
    to its output. It allots over the model; here each block has the same bits. High-impact weights
    are rounded to nearest (the authors: AdaRound), so that one measurement takes no training.

    The mask is counted; the paper's 2.3 bits leave it out, as ``bits_as_published`` does. Budget
    rule: the largest ratio that it pays for, with 2, 3 or 4 bits for the others.
    """

    Params: ClassVar[type[StrictModel]] = RatioOptParams
    _ratio: dict[str, float]

    @property
    def divides_blocks(self) -> bool:
        """Return False: layers of a block share the budget of high-impact weights."""
        return False

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Choose ratios for the block, then quantize layer by layer."""
        ratios = sorted({*_CANDIDATES, self.params.ratio})
        shapes = [LinearShape(linear.kind, *linear.weight.shape) for linear in linears]
        costs = [[self._bits(shape, ratio) for ratio in ratios] for shape in shapes]
        limit = sum(self._bits(shape, self.params.ratio) for shape in shapes)
        if self.params.allocate and linears:
            losses = [[self._loss(linear, ratio) for ratio in ratios] for linear in linears]
            chosen = choose_least(losses, costs, limit)
        else:
            chosen = [ratios.index(self.params.ratio)] * len(linears)
        self._ratio = {one.name: ratios[at] for one, at in zip(linears, chosen, strict=True)}
        yield from super().quantize_block(block, linears)

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Mark high-impact weights, and round both sorts."""
        ratio = self._ratio[linear.name]
        stored = self._rounded_at(linear, ratio, self.params.steps)
        return Rounded(stored, notes=[f"{ratio:g} of the weights are high-impact"])

    def layouts(self) -> Iterable[RatioOptParams]:
        """Most bits of the many first, then most high-impact weights."""
        for other_bits in (4, 3, 2, 1):
            for ratio in reversed(_CANDIDATES):
                chosen = {"other_bits": other_bits, "bits": max(self.params.bits, other_bits)}
                yield self.params.model_copy(update={**chosen, "ratio": ratio})

    def count(self, params: RatioOptParams, shape: LinearShape) -> BitCount:
        """Return the bits of a linear with the block's own ratio."""
        _, rows, columns = shape
        return MaskedGridsWeight.count(
            MaskedGridsSizes(
                out_features=rows,
                in_features=columns,
                marked_bits=params.bits,
                other_bits=params.other_bits,
                group_size=min(params.group_size or columns, columns),
                per_layer=False,
                marked=round(params.ratio * rows * columns),
            )
        )

    def _bits(self, shape: LinearShape, ratio: float) -> float:
        return self.count(self.params.model_copy(update={"ratio": ratio}), shape).total

    def _loss(self, linear: LinearInput, ratio: float) -> float:
        matrix = linear.hessian.matrix
        error = linear.weight - self._rounded_at(linear, ratio, 0).dequantize()
        return output_loss(error, matrix) / max(output_loss(linear.weight, matrix), 1e-30)

    def _rounded_at(self, linear: LinearInput, ratio: float, steps: int) -> MaskedGridsWeight:
        params, weight, matrix = self.params, linear.weight, linear.hessian.matrix
        mask = largest_impact(weight, matrix.diagonal(), ratio)
        wide, wide_zeros = fit_grid(torch.where(mask, weight, 0), params.bits)
        codes = grid_codes(weight, wide[:, None], wide_zeros[:, None], params.bits)
        span = min(params.group_size or weight.shape[1], weight.shape[1])
        # Without its large weights a group's range is narrow; that is what the mask buys.
        grids = ClippedGrids(torch.where(mask, 0, weight), params.other_bits, span)
        low, high = learn_clipping(grids, matrix, steps, params.learning_rate)
        other_codes, narrow, zeros = grids.stored(low, high)
        return MaskedGridsWeight(
            marked_bits=params.bits,
            other_bits=params.other_bits,
            group_size=span,
            mask=mask,
            codes=torch.where(mask, codes, other_codes),
            marked_steps=wide,
            marked_zeros=wide_zeros,
            steps=narrow,
            zeros=zeros,
        )


def largest_impact(weight: Tensor, diag_h: Tensor, ratio: float) -> Tensor:
    """Mark the part ``ratio`` of a layer's weights with the largest ``H_jj w²``, bool."""
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    order = (weight.square() * diag_h).flatten().argsort(descending=True, stable=True)
    mask[order[: round(ratio * weight.numel())]] = True
    return mask.view_as(weight)


def choose_least(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], limit: float
) -> list[int]:
    """Return one candidate per layer with little summed loss and a summed cost within a limit.

    Each multiplier makes every layer's choice by itself, which is optimal for the cost that it
    comes to; the smallest multiplier within the limit is bisected. What is left then goes to the
    single change that gains most, as long as one fits. The cheapest candidates must be within
    the limit.
    """

    def choice(price: float) -> list[int]:
        return [
            min(range(len(row)), key=lambda at: (row[at] + price * cost[at], cost[at]))
            for row, cost in zip(losses, costs, strict=True)
        ]

    def total(chosen: list[int]) -> float:
        return sum(cost[at] for cost, at in zip(costs, chosen, strict=True))

    if total(choice(0.0)) <= limit:
        return choice(0.0)
    low, high = 0.0, 1e-12
    while total(choice(high)) > limit and high < 1e30:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if total(choice(middle)) > limit else (low, middle)
    chosen = choice(high)
    while True:
        fits = [
            (losses[layer][at] - losses[layer][old], layer, at)
            for layer, old in enumerate(chosen)
            for at in range(len(losses[layer]))
            if total(chosen) - costs[layer][old] + costs[layer][at] <= limit
        ]
        gain, layer, at = min(fits)
        if gain >= 0:
            return chosen
        chosen[layer] = at
