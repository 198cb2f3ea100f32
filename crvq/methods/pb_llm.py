"""PB-LLM: salient weights in 8 bits, all others as signs (arXiv 2310.00034)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import PbLlmParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.binary import PartialBinaryColumns, salient_number
from crvq.vq.gptq import quantize_columns
from crvq.weights.bits import BitCount
from crvq.weights.partial_binary import PartialBinarySizes, PartialBinaryWeight

# Salient ratios that a budget may choose: 0 to 0.5.
_RATIOS = [part / 400 for part in range(200, -1, -1)]


@register_method("pb_llm")
class PbLlmMethod(LinearByLinear[PbLlmParams]):
    """PB-LLM without training (GPTQ-PB; arXiv 2310.00034, section 3.3).

    The largest weights of a group of columns (all rows together) are salient and take an
    asymmetric min-max grid per row, fitted to the row as it was; the others are signs with the
    least-squares scale ``mean |w|`` per row (section 3.4). Columns are quantized in turn, later
    ones compensating the errors of earlier ones. With whole rows, the authors' default, salient
    weights and scales are those of the original weight; with shorter groups they follow the
    weights as they are when the group's turn comes. "hessian" is the authors' code's
    ``w² / U_jj²``. Their code also subtracts a mean, averaged over salient places too; the paper's
    text does not, and neither is done here.

    Everything is counted: the authors' 1.7 bits (a tenth salient) leave out the mask and the
    scales; a record's ``effective`` has their count as ``bits_as_published``. The mask is stored
    as a bitmap or, if that is smaller, as the salient weights' places.

    Budget rule: the largest salient ratio that it pays for, in steps of 1/400; all else as asked.
    """

    Params: ClassVar[type[StrictModel]] = PbLlmParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Salient weights, scales, codes and signs, column by column."""
        params, weight = self.params, linear.weight
        in_features = weight.shape[1]
        hessian = damped_hessian(linear, params.damping)
        factor = hessian.shared_factor(torch.arange(in_features, device=weight.device))
        cost = torch.ones(in_features, device=weight.device)
        if params.salient_metric == "hessian":
            cost = factor.diagonal().square().reciprocal()
        span = min(params.group_size or in_features, in_features)
        columns = PartialBinaryColumns(
            weight, cost, params.salient_ratio, params.salient_bits, span
        )
        quantize_columns(weight, columns, factor)
        stored = PartialBinaryWeight(
            salient_bits=params.salient_bits,
            group_size=span,
            salient=columns.salient,
            signs=columns.signs,
            codes=columns.codes,
            scales=columns.scales,
            steps=columns.steps,
            zeros=columns.zeros,
        )
        return Rounded(stored, notes=damping_notes(hessian))

    def layouts(self) -> Iterable[PbLlmParams]:
        """Most salient weights first."""
        for ratio in _RATIOS:
            yield self.params.model_copy(update={"salient_ratio": ratio})

    def count(self, params: PbLlmParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, out_features, in_features = shape
        span = min(params.group_size or in_features, in_features)
        whole, rest = divmod(in_features, span)
        salient = whole * salient_number(out_features * span, params.salient_ratio)
        salient += salient_number(out_features * rest, params.salient_ratio)
        return PartialBinaryWeight.count(
            PartialBinarySizes(
                out_features=out_features,
                in_features=in_features,
                salient_bits=params.salient_bits,
                group_size=span,
                salient=salient,
            )
        )
