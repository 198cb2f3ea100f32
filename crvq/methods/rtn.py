"""RTN: each weight rounded to the nearest value of a uniform grid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import RtnParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.gptq import quantize_columns
from crvq.vq.uniform_grid import GridColumns
from crvq.weights.bits import BitCount
from crvq.weights.uniform import UniformSizes, UniformWeight

# Group sizes that a budget may choose, besides whole rows.
_GROUP_SIZES = (16, 32, 64, 128, 256)


@register_method("rtn")
class RtnMethod(LinearByLinear[RtnParams]):
    """Round to nearest on an asymmetric min-max grid, blind to activations.

    A step (float16) and a zero point (``bits`` wide) for each row of each group are stored and
    counted. Budget rule: the most bits per code, then the smallest groups, that it pays for.
    """

    Params: ClassVar[type[StrictModel]] = RtnParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Each group's grid, and the nearest codes."""
        columns = grid_columns(linear, self.params.bits, self.params.group_size)
        quantize_columns(linear.weight, columns, factor=None)
        return Rounded(uniform_weight(columns))

    def layouts(self) -> Iterable[RtnParams]:
        """Most bits first, then smallest groups."""
        for bits, group_size in uniform_layouts():
            yield self.params.model_copy(update={"bits": bits, "group_size": group_size})

    def count(self, params: RtnParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return uniform_bits(shape, params.bits, params.group_size, reordered=False)


def grid_columns(linear: LinearInput, bits: int, group_size: int | None) -> GridColumns:
    """Grids for a linear; a group is never wider than the weight."""
    out_features, in_features = linear.weight.shape
    span = min(group_size or in_features, in_features)
    return GridColumns((out_features, in_features), bits, span, linear.weight.device)


def uniform_weight(columns: GridColumns, order: torch.Tensor | None = None) -> UniformWeight:
    """Return the weight that filled grids stand for."""
    return UniformWeight(
        columns.bits, columns.span, columns.codes, columns.steps, columns.zeros, order
    )


def uniform_layouts() -> Iterable[tuple[int, int | None]]:
    """Bits and group sizes, by what they are likely to lose: bits weigh more than groups do."""
    for bits in range(8, 0, -1):
        for group_size in (*_GROUP_SIZES, None):
            yield bits, group_size


def uniform_bits(
    shape: LinearShape, bits: int, group_size: int | None, *, reordered: bool
) -> BitCount:
    """Return the bits of a `UniformWeight` of some shape."""
    _, out_features, in_features = shape
    span = min(group_size or in_features, in_features)
    return UniformWeight.count(
        UniformSizes(
            out_features=out_features,
            in_features=in_features,
            code_bits=bits,
            group_size=span,
            reordered=reordered,
        )
    )
