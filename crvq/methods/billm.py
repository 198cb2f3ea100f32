"""BiLLM: signs, a second sign in salient columns, two groups elsewhere (arXiv 2402.04291)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import BillmParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.binary import SplitBinaryColumns, most_salient_columns
from crvq.vq.gptq import quantize_columns
from crvq.weights.bits import BitCount
from crvq.weights.split_binary import SplitBinaryWeight

# What a budget may choose from.
_BLOCKS = (32, 48, 64, 96, 128, 192, 256, 384, 512, None)
_MOST_SALIENT = (0.1, 0.05, 0.02)
# Columns of the layer that layouts are ordered by.
_LARGE = 4096


@register_method("billm")
class BillmMethod(LinearByLinear[BillmParams]):
    """BiLLM (arXiv 2402.04291, algorithms 1 and 2).

    In each block of columns: columns ranked by the sum of ``w² / U_jj²`` (U of H's inverse,
    as in the authors' code; section 3.2); as many of them salient as equation 5 likes best; a
    second sign for what the first leaves of salient weights; the others split in two by magnitude
    at the best of 81 percentiles (section 3.3). Later columns compensate errors, 128 at a time.

    The paper gives groups a scale only, the authors' code a centre too (``centres``); it also
    lets up to 49 of 128 columns be salient. Both searches take the weights' squared error, as the
    paper has it, where the authors' code searches on the saliencies. Errors of columns
    rounded together are compensated by ``E U_bb⁻¹ U_b,rest``, the optimum; the authors' code
    divides by U's diagonal. ``feedback_columns=1`` compensates each column's error at once, as GPTQ
    does: a few per cent less loss in four times the time. Both centres of a salient weight are
    stored as one.

    Everything is counted: a bitmap of groups costs up to a bit per weight, and 7 float16 numbers
    per row and block of 128 cost 0.88. The authors' 1.1 bits leave these out; a record's
    ``effective`` has their count as ``bits_as_published``.

    Budget rule: of blocks of 32 to 512 columns or whole rows, with and without splitting and
    centres, with at most a tenth, a twentieth or a fiftieth of columns salient, the layout that
    spends most.
    """

    Params: ClassVar[type[StrictModel]] = BillmParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Groups, scales and signs, block by block."""
        params = self.params
        out_features, in_features = linear.weight.shape
        hessian = damped_hessian(linear, params.damping)
        factor = hessian.shared_factor(torch.arange(in_features, device=linear.weight.device))
        block = min(params.block_size or in_features, in_features)
        columns = SplitBinaryColumns(
            (out_features, in_features),
            cost=factor.diagonal().square().reciprocal(),
            block=block,
            width=min(params.feedback_columns, block),
            most_salient=params.most_salient,
            splitting=params.splitting,
            centred=params.centres,
        )
        quantize_columns(linear.weight, columns, factor)
        weight = SplitBinaryWeight(
            block=block,
            salient=columns.salient,
            signs=columns.signs,
            second_signs=columns.second_signs,
            sparse=columns.sparse if params.splitting else None,
            scales=columns.scales,
            centres=columns.centres if params.centres else None,
        )
        notes = [f"{int(columns.salient.sum())} of {in_features} columns are salient"]
        return Rounded(weight, notes=notes + damping_notes(hessian))

    def layouts(self) -> Iterable[BillmParams]:
        """What spends most on a large layer first."""
        choices = [
            self.params.model_copy(
                update={
                    "block_size": block,
                    "most_salient": most,
                    "splitting": splitting,
                    "centres": centres,
                }
            )
            for block in _BLOCKS
            for most in _MOST_SALIENT
            for splitting in (True, False)
            for centres in (True, False)
        ]
        large = LinearShape("", _LARGE, _LARGE)
        yield from sorted(choices, key=lambda params: -self.count(params, large).total)

    def count(self, params: BillmParams, shape: LinearShape) -> BitCount:
        """With as many salient columns as there may be; fewer weigh less."""
        _, out_features, in_features = shape
        block = min(params.block_size or in_features, in_features)
        place, rest = torch.arange(in_features), in_features % block
        most = torch.full_like(place, most_salient_columns(block, params.most_salient))
        most[in_features - rest :] = most_salient_columns(rest, params.most_salient)
        return SplitBinaryWeight.count(
            SplitBinaryWeight.sizes_of(
                out_features, place % block < most, block, params.splitting, params.centres
            )
        )
