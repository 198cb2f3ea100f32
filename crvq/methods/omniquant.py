"""OmniQuant's learnable weight clipping, against each layer's own loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.rtn import uniform_bits, uniform_layouts
from crvq.methods.scalar_params import OmniquantParams
from crvq.vq.clipping import ClippedGrids, learn_clipping
from crvq.weights.bits import BitCount
from crvq.weights.uniform import UniformWeight


@register_method("omniquant")
class OmniquantMethod(LinearByLinear[OmniquantParams]):
    """OmniQuant's learnable weight clipping alone (arXiv 2308.13137, section 3.2).

    Each group's least and largest weight are multiplied by the sigmoid of a learned logit; the
    grid lies between them, and rounding passes gradients straight through. Each row keeps the
    factors whose stored weight loses least, rounding to nearest among them.

    The authors train the factors of a whole block together on the block's output for quantized
    inputs (20 epochs, 40 at 2 bits, batch 1); here each layer's are trained by itself on
    ``tr(ΔW H ΔWᵀ)``, the whole calibration text in each step. The learnable equivalent
    transformation, which moves scales between activations and weights for quantized activations,
    is not here. ``finetune=block`` trains the steps that come out of it on the block's output.

    Budget rule: RTN's.
    """

    Params: ClassVar[type[StrictModel]] = OmniquantParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Learn clipping factors, and round to the clipped grids."""
        params, in_features = self.params, linear.weight.shape[1]
        span = min(params.group_size or in_features, in_features)
        grids = ClippedGrids(linear.weight, params.bits, span)
        low, high = learn_clipping(grids, linear.hessian.matrix, params.steps, params.learning_rate)
        codes, steps, zeros = grids.stored(low, high)
        return Rounded(UniformWeight(params.bits, span, codes, steps, zeros), rounds=params.steps)

    def layouts(self) -> Iterable[OmniquantParams]:
        """Most bits first, then smallest groups."""
        for bits, group_size in uniform_layouts():
            yield self.params.model_copy(update={"bits": bits, "group_size": group_size})

    def count(self, params: OmniquantParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return uniform_bits(shape, params.bits, params.group_size, reordered=False)
