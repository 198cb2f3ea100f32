"""GPTQ: uniform grids, each column's error compensated by the columns after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import GptqParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.rtn import (
    grid_columns,
    uniform_bits,
    uniform_layouts,
    uniform_weight,
)
from crvq.vq.gptq import quantize_columns
from crvq.weights.bits import BitCount


@register_method("gptq")
class GptqMethod(LinearByLinear[GptqParams]):
    """GPTQ (arXiv 2210.17323, algorithm 1), asymmetric min-max grids.

    A group's grid is fitted when its columns' turn comes, to weights that have compensated all
    earlier errors (the authors' code without ``static_groups``). With ``act_order`` groups are
    made of neighbours in the quantization order, as in the authors' code, and that order is
    stored and counted. Budget rule: RTN's, with ``act_order`` as asked.
    """

    Params: ClassVar[type[StrictModel]] = GptqParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Grids and codes, column by column."""
        params = self.params
        hessian = damped_hessian(linear, params.damping)
        diag_h = hessian.matrix.diagonal()
        order = torch.arange(len(diag_h), device=diag_h.device)
        if params.act_order:
            order = diag_h.argsort(descending=True, stable=True)
        columns = grid_columns(linear, params.bits, params.group_size)
        quantize_columns(linear.weight[:, order], columns, hessian.shared_factor(order))
        weight = uniform_weight(columns, order if params.act_order else None)
        return Rounded(weight, notes=damping_notes(hessian))

    def layouts(self) -> Iterable[GptqParams]:
        """Most bits first, then smallest groups."""
        for bits, group_size in uniform_layouts():
            yield self.params.model_copy(update={"bits": bits, "group_size": group_size})

    def count(self, params: GptqParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return uniform_bits(shape, params.bits, params.group_size, reordered=params.act_order)
