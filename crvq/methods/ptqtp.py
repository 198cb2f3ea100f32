"""PTQTP: each weight as a sum of two scaled trits, without calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.pt2_llm import ternary_sizes
from crvq.methods.registry import register_method
from crvq.methods.ternary_params import PtqtpParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.ternary import TritPlaneColumns
from crvq.weights.bits import BitCount
from crvq.weights.ternary import TernaryWeight

# Group sizes that a budget may choose.
_GROUPS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, None)


@register_method("ptqtp")
class PtqtpMethod(LinearByLinear[PtqtpParams]):
    """PTQTP (arXiv 2509.16989): ``w ≈ α₁ t₁ + α₂ t₂`` for each row of a group of columns.

    Scales by ridge least squares and trits by trying all nine choices per weight, in turn, until
    scales settle. Each step solves its half exactly, so the squared error of the weights never
    rises. No activation is looked at; ``error_feedback=true``, which is ours, lets columns answer
    the errors of earlier ones as in GPTQ. No code of the authors was found: the ridge is added
    where the condition number exceeds 1e6 (the paper adapts it by the condition number), and trits
    start as signs of the residual.

    Two planes of trits cost 3.2 bits, five to a byte, and two float16 scales per row and group of
    128 columns 0.25: the paper's 1.58 bits are a label (``bits_as_published``).

    Budget rule: of 3, 2, 1 planes and groups of 16 columns to whole rows, most planes first, then
    the smallest groups.
    """

    Params: ClassVar[type[StrictModel]] = PtqtpParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Scales and trits, group by group."""
        params, (out_features, in_features) = self.params, linear.weight.shape
        group = min(params.group_size or in_features, in_features)
        columns = TritPlaneColumns(
            (out_features, in_features),
            params.planes,
            group,
            params.iterations,
            params.tolerance,
            linear.weight.device,
        )
        factor, notes = None, []
        if params.error_feedback:
            hessian = damped_hessian(linear, params.damping)
            natural = torch.arange(in_features, device=linear.weight.device)
            factor = hessian.shared_factor(natural)
            notes = damping_notes(hessian)
        quantize_columns(linear.weight, columns, factor)
        return Rounded(TernaryWeight(group, columns.trits, columns.scales), notes=notes)

    def layouts(self) -> Iterable[PtqtpParams]:
        """Most planes first, then smallest groups."""
        for planes in (3, 2, 1):
            for group in _GROUPS:
                yield self.params.model_copy(update={"planes": planes, "group_size": group})

    def count(self, params: PtqtpParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return TernaryWeight.count(
            ternary_sizes(shape, params.group_size, params.planes, centred=False, reordered=False)
        )
