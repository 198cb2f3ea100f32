"""OBC: uniform grids, weights of a row rounded in greedy order with exact compensation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.rtn import grid_columns, uniform_bits, uniform_layouts, uniform_weight
from crvq.methods.scalar_params import ObcParams
from crvq.vq.greedy_rounding import round_greedily
from crvq.weights.bits import BitCount


@register_method("obc")
class ObcMethod(LinearByLinear[ObcParams]):
    """OBQ of Optimal Brain Compression (arXiv 2208.11580, section 5, algorithm 3).

    GPTQ's ancestor: each row takes its weights in an order of its own, the one first that costs
    least after all others that are left have answered its error. Grids are min-max and fixed
    before the first weight is rounded (GPTQ fits a group's grid when its turn comes).

    The authors damp H only where its inverse fails, in double precision; here it is damped as in
    `gptq`. They update H⁻¹ as a whole, here it is kept as a Cholesky factor (same numbers).

    Where a few channels carry most of H (language models' residual stream) the greedy order loses
    several times more than GPTQ's, by nature: grids, updates and precision are not at fault. It
    takes cheap weights first, so that those with a large H_jj come last, when nothing is left to
    answer their errors. One order by ascending H_jj for all rows loses as much or more, one by
    descending H_jj less than GPTQ (docs/methods.md). ``order=costly_first`` mends it, and needs no
    stored order, since grids belong to places.

    Budget rule: RTN's.
    """

    Params: ClassVar[type[StrictModel]] = ObcParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Grids of all groups, then codes in greedy order."""
        params, weight = self.params, linear.weight
        hessian = damped_hessian(linear, params.damping)
        natural = torch.arange(weight.shape[1], device=weight.device)
        factor = hessian.shared_factor(natural).double()
        inverse = (factor.T @ factor).float()
        columns = grid_columns(linear, params.bits, params.group_size)
        for first in range(0, weight.shape[1], columns.span):
            group = slice(first, first + columns.span)
            columns.start(group, weight[:, group])
        group_of = natural // columns.span
        steps, zeros = columns.steps[:, group_of], columns.zeros[:, group_of]
        columns.codes = round_greedily(
            weight, inverse, steps, zeros, 2**params.bits, params.order == "costly_first"
        )
        return Rounded(uniform_weight(columns), notes=damping_notes(hessian))

    def layouts(self) -> Iterable[ObcParams]:
        """Most bits first, then smallest groups."""
        for bits, group_size in uniform_layouts():
            yield self.params.model_copy(update={"bits": bits, "group_size": group_size})

    def count(self, params: ObcParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return uniform_bits(shape, params.bits, params.group_size, reordered=False)
