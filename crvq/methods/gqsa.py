"""GQSA: groups of weights pruned, the others on uniform grids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.scalar_params import GqsaParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.uniform_grid import GridColumns
from crvq.weights.bits import BitCount
from crvq.weights.sparse_groups import SparseGroupsSizes, SparseGroupsWeight

# What a budget may choose from.
_SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_GROUP_SIZES = (16, 32, 64)


@register_method("gqsa")
class GqsaMethod(LinearByLinear[GqsaParams]):
    """GQSA (arXiv 2412.17560): 1xN group sparsity and a grid of 4 bits per kept group.

    Groups of a row are kept by their summed saliency ``w² / [H⁻¹]_jj``, as many per linear as
    ``sparsity`` leaves. The authors then train weights and grids of a block (stage 1), then grids
    of the whole model (stage 2). Here errors of pruning and rounding are answered by later columns
    as in GPTQ instead of stage 1; ``finetune=block`` and ``block_e2e`` train steps.

    Everything is counted: a bitmap of groups, a step of float16 and a zero point per kept group.

    Budget rule: groups of 16 to 64; of what meets the budget, codes of 4 bits and fewest pruned
    groups first, then 3 and 2 bits.
    """

    Params: ClassVar[type[StrictModel]] = GqsaParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Choose groups, then round column by column."""
        params, weight = self.params, linear.weight
        hessian = damped_hessian(linear, params.damping)
        group = min(params.group_size, weight.shape[1])
        saliency = weight.square() * hessian.inv_diag_weight
        kept = kept_groups(saliency, group, params.sparsity)
        columns = PrunedColumns(kept, weight.shape[1], params.bits, group)
        factor = hessian.shared_factor(torch.arange(weight.shape[1], device=weight.device))
        quantize_columns(weight, columns, factor)
        padded = torch.nn.functional.pad(columns.codes, (0, -weight.shape[1] % group))
        stored = SparseGroupsWeight(
            in_features=weight.shape[1],
            code_bits=params.bits,
            kept=kept,
            codes=padded.unflatten(1, (-1, group))[kept],
            steps=columns.steps[kept],
            zeros=columns.zeros[kept],
        )
        return Rounded(stored, notes=damping_notes(hessian))

    def layouts(self) -> Iterable[GqsaParams]:
        """Most bits first, then fewest pruned groups, then smallest groups."""
        for bits in (4, 3, 2, 1):
            for sparsity in _SPARSITIES:
                for group_size in _GROUP_SIZES:
                    chosen = {"bits": bits, "sparsity": sparsity, "group_size": group_size}
                    yield self.params.model_copy(update=chosen)

    def count(self, params: GqsaParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        group = min(params.group_size, columns)
        kept = kept_number(rows * -(-columns // group), params.sparsity)
        return SparseGroupsWeight.count(
            SparseGroupsSizes(
                out_features=rows,
                in_features=columns,
                code_bits=params.bits,
                group_size=group,
                kept=kept,
            )
        )


class PrunedColumns(GridColumns):
    """Grids in kept groups, zero in all others.

    Args:
        kept: ``(out, groups)``, bool.
        in_features: columns.
        bits: of a code.
        group_size: columns that share grids.
    """

    def __init__(self, kept: Tensor, in_features: int, bits: int, group_size: int) -> None:
        super().__init__((len(kept), in_features), bits, group_size, kept.device)
        self._kept = kept

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Round values of kept groups."""
        values = super().quantize(columns, weight, metric)
        return values * self._kept[:, columns.start // self.span, None]


def kept_number(groups: int, sparsity: float) -> int:
    """Return how many groups are kept."""
    return groups - round(sparsity * groups)


def kept_groups(saliency: Tensor, group_size: int, sparsity: float) -> Tensor:
    """Mark the groups with the largest sums, ``(out, groups)`` bool."""
    padded = torch.nn.functional.pad(saliency, (0, -saliency.shape[1] % group_size))
    sums = padded.unflatten(1, (-1, group_size)).sum(2)
    kept = torch.zeros(sums.numel(), dtype=torch.bool, device=sums.device)
    order = sums.flatten().argsort(descending=True, stable=True)
    kept[order[: kept_number(sums.numel(), sparsity)]] = True
    return kept.view_as(sums)
