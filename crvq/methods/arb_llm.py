"""ARB-LLM_RC: alternating refined binarization with row and column scales."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.binary_params import ArbLlmParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.binary import most_salient_columns
from crvq.vq.gptq import quantize_columns
from crvq.vq.row_column import RowColumnColumns
from crvq.weights.bits import BitCount
from crvq.weights.row_column_binary import RowColumnBinaryWeight

# What a budget may choose from.
_BLOCKS = (32, 48, 64, 96, 128, 192, 256, 384, 512, None)
_MOST_SALIENT = (0.1, 0.05, 0.02, 0.0)
# Columns of the layer that layouts are ordered by.
_LARGE = 4096


@register_method("arb_llm")
class ArbLlmMethod(LinearByLinear[ArbLlmParams]):
    """ARB-LLM_RC with column-group bitmap (arXiv 2410.03129, sections 3.3 and 3.4).

    BiLLM's frame (salient columns with a second sign, other weights in two groups by magnitude,
    GPTQ-style error feedback in blocks of 128 columns) with the centres replaced by a scale per
    column, and scales refined in turn instead of computed once. Salient columns are split in two
    groups too, so the bitmap covers the whole weight; their two signs are the best of four pairs.

    The paper's calibrated variant ARB-LLM_X is not here; its RC variant uses activations only for
    saliency and error feedback. Which columns are salient is decided as in `billm` of this package
    (on squared errors of the weights), and the break points too. ``feedback_columns=1`` answers
    errors within a block as well, which the authors do not.

    Everything is counted: one bit of signs, one of the bitmap, six float16 scales per row and
    block where there are salient columns, two or four per column. A record's ``effective`` has
    the paper's 1.1 bits as ``bits_as_published``.

    Budget rule: of blocks of 32 to 512 columns or whole rows, with and without splitting, with at
    most a tenth, a twentieth, a fiftieth or none of the columns salient, what spends most.
    """

    Params: ClassVar[type[StrictModel]] = ArbLlmParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Groups, scales and signs, block by block."""
        params, (out_features, in_features) = self.params, linear.weight.shape
        hessian = damped_hessian(linear, params.damping)
        factor = hessian.shared_factor(torch.arange(in_features, device=linear.weight.device))
        block = min(params.block_size or in_features, in_features)
        columns = RowColumnColumns(
            (out_features, in_features),
            cost=factor.diagonal().square().reciprocal(),
            block=block,
            width=min(params.feedback_columns, block),
            most_salient=params.most_salient,
            splitting=params.splitting,
            iterations=params.refine_iterations,
        )
        quantize_columns(linear.weight, columns, factor)
        weight = RowColumnBinaryWeight(
            block=block,
            salient=columns.salient,
            signs=columns.signs,
            second_signs=columns.second_signs,
            groups=columns.groups if params.splitting else None,
            rows=columns.rows,
            columns=columns.columns,
        )
        notes = [f"{int(columns.salient.sum())} of {in_features} columns are salient"]
        return Rounded(weight, notes=notes + damping_notes(hessian))

    def layouts(self) -> Iterable[ArbLlmParams]:
        """What spends most on a large layer first."""
        choices = [
            self.params.model_copy(
                update={"block_size": block, "most_salient": most, "splitting": splitting}
            )
            for block in _BLOCKS
            for most in _MOST_SALIENT
            for splitting in (True, False)
        ]
        large = LinearShape("", _LARGE, _LARGE)
        yield from sorted(choices, key=lambda params: -self.count(params, large).total)

    def count(self, params: ArbLlmParams, shape: LinearShape) -> BitCount:
        """Count with as many salient columns as there may be; fewer weigh less."""
        _, out_features, in_features = shape
        block = min(params.block_size or in_features, in_features)
        place, rest = torch.arange(in_features), in_features % block
        most = torch.full_like(place, most_salient_columns(block, params.most_salient))
        most[in_features - rest :] = most_salient_columns(rest, params.most_salient)
        return RowColumnBinaryWeight.count(
            RowColumnBinaryWeight.sizes_of(
                out_features, place % block < most, block, params.splitting
            )
        )
