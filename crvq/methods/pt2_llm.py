"""PT2-LLM: asymmetric ternary weights, fitted in blocks with error feedback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.ternary_params import Pt2LlmParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.ternary import AsymmetricTernaryColumns, similar_columns
from crvq.weights.bits import BitCount
from crvq.weights.ternary import TernarySizes, TernaryWeight

# Block sizes that a budget may choose.
_BLOCKS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, None)


@register_method("pt2_llm")
class Pt2LlmMethod(LinearByLinear[Pt2LlmParams]):
    """PT2-LLM (arXiv 2510.03267): ``w ≈ μ + α t`` for each row of a block of columns.

    Iterative ternary fitting (section 3.2): (μ, α) in closed form and nearest trits in turn, at
    most ten times. Activation-aware grid alignment (section 3.3): (μ, α) by least squares under
    the block's H, trits fixed. Later blocks answer the errors of earlier ones as in GPTQ. Columns
    may be reordered so that blocks are made of similar ones (section 3.4), at ⌈log2 in⌉ bits each.

    No code of the authors is published (their repository is a placeholder): the start of the fit
    and the references of the reordering are ours. ``feedback_columns`` below ``block_size`` answers
    errors within a block too and rounds to the aligned grid again, which the paper does not.

    Trits are stored five to a byte: 1.6 bits, and two float16 numbers per row and block of 128
    columns cost 0.25. The paper's 1.58 bits leave these out (``bits_as_published``).

    Budget rule: the smallest blocks that it pays for, from 16 columns to whole rows.
    """

    Params: ClassVar[type[StrictModel]] = Pt2LlmParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Centres, scales and trits, block by block."""
        params, (out_features, in_features) = self.params, linear.weight.shape
        hessian = damped_hessian(linear, params.damping)
        diag_h = hessian.matrix.diagonal()
        block = min(params.block_size or in_features, in_features)
        order, weight, moment = None, linear.weight, hessian.matrix
        if params.reorder:
            order = similar_columns(weight, diag_h, block)
            weight, moment = weight[:, order], moment[order][:, order]
            factor = hessian.feedback_factor(order)
        else:
            natural = torch.arange(in_features, device=weight.device)
            factor = hessian.shared_factor(natural)
        columns = AsymmetricTernaryColumns(
            moment,
            out_features,
            block,
            width=min(params.feedback_columns, block),
            iterations=params.fit_iterations,
            aligned=params.grid_alignment,
        )
        quantize_columns(weight, columns, factor)
        stored = TernaryWeight(block, columns.trits, columns.scales, columns.centres, order)
        return Rounded(stored, notes=damping_notes(hessian))

    def layouts(self) -> Iterable[Pt2LlmParams]:
        """Smallest blocks first."""
        for block in _BLOCKS:
            yield self.params.model_copy(update={"block_size": block})

    def count(self, params: Pt2LlmParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return TernaryWeight.count(
            ternary_sizes(shape, params.block_size, 1, centred=True, reordered=params.reorder)
        )


def ternary_sizes(
    shape: LinearShape, group_size: int | None, planes: int, *, centred: bool, reordered: bool
) -> TernarySizes:
    """Return the header of a ternary weight of some shape."""
    return TernarySizes(
        out_features=shape.out_features,
        in_features=shape.in_features,
        planes=planes,
        group_size=min(group_size or shape.in_features, shape.in_features),
        centred=centred,
        reordered=reordered,
    )
