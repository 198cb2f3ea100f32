"""CERWU: rounding to a grid so that an entropy coder stores the codes in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.budget import BudgetError, average_bits
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.scalar_params import CerwuParams
from crvq.vq.hessian import output_loss
from crvq.vq.rate_rounding import round_at_rate
from crvq.vq.scale_solve import best_scales
from crvq.vq.storage import to_float16, to_positive_float16
from crvq.weights.bits import BitCount
from crvq.weights.entropy_coded import EntropyCodedSizes, EntropyCodedWeight

_CHEAPEST, _DEAREST = 1e-5, 1.0
"""λ relative to the mean output energy of a weight, between which it is looked for."""
_MOST_BITS = 8.0


@register_method("cerwu")
class CerwuMethod(LinearByLinear[CerwuParams]):
    """CERWU (arXiv 2505.18758): ``tr(E H Eᵀ) + λ rate`` column by column as in GPTQ.

    Grids are symmetric, one step per row from its largest weight. The authors sweep λ and grids;
    here λ is looked for by bisection so that a layer's stored bits come just under ``rate``, and
    frequencies of levels are those of the last pass above it (the authors: DeepCABAC's adaptive
    model).
    Steps are fitted to the codes in the end, which the paper does not do.

    The size is that of a real coder's stream (rANS) with its table and states, not an estimate.

    Budget rule: ``rate`` is the budget.
    """

    Params: ClassVar[type[StrictModel]] = CerwuParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Bisect λ; of all passes that meet the rate, the one of least loss."""
        params, weight = self.params, linear.weight
        hessian = damped_hessian(linear, params.damping)
        middle = params.levels // 2
        steps = to_positive_float16(weight.abs().amax(1) / middle)
        codes = (weight / steps[:, None]).round().clamp(-middle, middle).long() + middle
        limit = self.count(params, LinearShape(linear.kind, *weight.shape)).total
        mean_energy = max(output_loss(weight, linear.hessian.matrix) / weight.numel(), 1e-30)
        low, high = log(_CHEAPEST), log(_DEAREST)
        zero = EntropyCodedWeight(
            params.levels, torch.full_like(codes, middle), torch.zeros_like(steps)
        )
        best, least = zero, output_loss(weight, linear.hessian.matrix)
        counts = torch.bincount(codes.flatten(), minlength=params.levels)
        for _ in range(params.passes):
            price = exp((low + high) / 2) * mean_energy
            codes = round_at_rate(weight, hessian, steps, counts, price)
            signed = (codes - middle).float()
            fitted = best_scales(weight, signed, signed @ linear.hessian.matrix, steps)
            stored = EntropyCodedWeight(params.levels, codes, to_float16(fitted, "a step"))
            if stored.bits().total > limit:
                # Frequencies follow from above alone: those of a pass with too high a price would
                # make rare levels so dear that no later pass finds back to them.
                counts = torch.bincount(codes.flatten(), minlength=params.levels)
                low = (low + high) / 2
                continue
            high = (low + high) / 2
            loss = output_loss(weight - stored.dequantize(), linear.hessian.matrix)
            if loss < least:
                best, least = stored, loss
        return Rounded(best, rounds=params.passes, notes=damping_notes(hessian))

    def count(self, params: CerwuParams, shape: LinearShape) -> BitCount:
        """Return the most bits of a linear of this shape: ``rate``, or those of an empty stream."""
        _, rows, columns = shape
        empty = _count(shape, params.levels, 0).total
        words = max(0, int(params.rate * rows * columns - empty) // 16)
        return _count(shape, params.levels, words)

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> CerwuParams:
        """Return the parameters with ``rate`` equal to the budget.

        Raises:
            BudgetError: the empty stream takes more, or the budget is above 8 bits.
        """
        levels = self.params.levels
        least = 1.05 * average_bits(shapes, lambda shape: _count(shape, levels, 0))
        if least <= bits <= _MOST_BITS:
            return self.params.model_copy(update={"rate": bits})
        nearest = round(min(max(bits, least + 1e-3), _MOST_BITS), 3)
        raise BudgetError(
            f"budget.bits={bits:g}: cerwu takes {least:.3f} to {_MOST_BITS:g} bits per weight on "
            f"this model. Set budget.bits={nearest:.3f}, or budget.if_infeasible=nearest",
            nearest,
        )


def _count(shape: LinearShape, levels: int, words: int) -> BitCount:
    _, rows, columns = shape
    sizes = EntropyCodedSizes(out_features=rows, in_features=columns, levels=levels, words=words)
    return EntropyCodedWeight.count(sizes)
