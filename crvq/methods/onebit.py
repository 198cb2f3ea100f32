"""OneBit: signs between two scale vectors, started from a rank-one fit of the magnitudes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from crvq.config.strict import StrictModel
from crvq.methods.binary_params import OneBitParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.storage import to_float16
from crvq.vq.two_sided import fit_two_sided, rank_one
from crvq.weights.bits import BitCount
from crvq.weights.fields import Sizes
from crvq.weights.two_sided_signs import TwoSidedSignsWeight


@register_method("onebit")
class OneBitMethod(LinearByLinear[OneBitParams]):
    """OneBit (arXiv 2402.11295): ``w ≈ h_o sign(w) g_j``, the SVID start of section 3.3.

    The authors then train everything, signs through a straight-through estimator, on the teacher's
    logits and hidden states (700 GPU hours for 7B). Here the scales alone are fitted: first to each
    layer's outputs under H, in closed form (``refine_iterations``; 0 is the plain start), and with
    ``finetune=block`` or ``block_e2e`` by distillation. Without training of signs this is a start,
    not the paper's result. Their LayerNorm after each linear is left out.

    Two vectors of float16 per linear are counted (the paper's "1 bit" leaves them out).

    Budget rule: there is one layout, of about 1.05 bits.
    """

    Params: ClassVar[type[StrictModel]] = OneBitParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Signs of the weights, scales by SVID, then under H."""
        weight, signs = linear.weight, linear.weight >= 0
        scales = fit_two_sided(
            weight,
            signs.to(weight.dtype) * 2 - 1,
            linear.hessian.matrix,
            rank_one(weight.abs()),
            self.params.refine_iterations,
        )
        rows, columns = (to_float16(one, "a scale") for one in scales)
        return Rounded(TwoSidedSignsWeight(signs, rows, columns))

    def layouts(self) -> Iterable[OneBitParams]:
        """Return the only one."""
        yield self.params

    def count(self, params: OneBitParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        return TwoSidedSignsWeight.count(Sizes(out_features=rows, in_features=columns))
