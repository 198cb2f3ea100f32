"""SqueezeLLM: sensitivity-weighted k-means per row, and a few weights kept in float16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.scalar_params import SqueezeLlmParams
from crvq.vq.kmeans import nearest_in_rows, row_kmeans
from crvq.vq.storage import to_float16
from crvq.weights.bits import BitCount
from crvq.weights.row_lookup import RowLookupSizes, RowLookupWeight

# Parts of the weights that a budget may keep in float16.
_OUTLIERS = (0.03, 0.02, 0.01, 0.004, 0.001, 0.0)


@register_method("squeezellm")
class SqueezeLlmMethod(LinearByLinear[SqueezeLlmParams]):
    """SqueezeLLM (arXiv 2306.07629): non-uniform values per row, dense and sparse.

    Sparse (section 4.2): the largest weights and the most sensitive ones are kept in float16.
    Dense (section 4.1): the others take the nearest of 2^bits values per row, by weighted k-means.

    The weight of an error is diag(H) of its column here. The authors weigh by the diagonal of the
    Fisher information, squared gradients of the model's loss for each single weight, which a method
    of this package does not see; diag(H) is the same for all rows. They start k-means from
    k-means++ with a seed, ours from weighted quantiles. Errors are not answered by other columns.

    Everything is counted: a row's table is 16 bits x 2^bits, a kept weight 16 bits and its place.

    Budget rule: most bits per code first, then of 3 % to none the most outliers;
    ``sensitive_ratio`` as asked.
    """

    Params: ClassVar[type[StrictModel]] = SqueezeLlmParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Choose kept weights, then values and codes for the others."""
        params, weight = self.params, linear.weight
        diag_h = linear.hessian.matrix.diagonal().clamp_min(0)
        mask = kept_weights(weight, diag_h, params.outlier_ratio, params.sensitive_ratio)
        cost = diag_h * ~mask
        tables = row_kmeans(weight * ~mask, cost, 2**params.bits, params.iterations)
        tables = to_float16(tables, "a value")
        codes = nearest_in_rows(weight, tables)
        codes[mask] = 0
        return Rounded(
            RowLookupWeight(codes, tables, mask, to_float16(weight[mask], "a kept weight"))
        )

    def layouts(self) -> Iterable[SqueezeLlmParams]:
        """Most bits first, then most outliers."""
        for bits in range(8, 0, -1):
            for ratio in _OUTLIERS:
                yield self.params.model_copy(update={"bits": bits, "outlier_ratio": ratio})

    def count(self, params: SqueezeLlmParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        large, sensitive = kept_numbers(
            rows * columns, params.outlier_ratio, params.sensitive_ratio
        )
        return RowLookupWeight.count(
            RowLookupSizes(
                out_features=rows,
                in_features=columns,
                code_bits=params.bits,
                sparse=large + sensitive,
            )
        )


def kept_numbers(weights: int, outlier_ratio: float, sensitive_ratio: float) -> tuple[int, int]:
    """Return how many weights are kept for their size, and how many for their sensitivity."""
    return round(outlier_ratio * weights), round(sensitive_ratio * weights)


def kept_weights(
    weight: Tensor, diag_h: Tensor, outlier_ratio: float, sensitive_ratio: float
) -> Tensor:
    """Mark the most sensitive weights, and of the others the largest, ``(out, in)`` bool."""
    large, sensitive = kept_numbers(weight.numel(), outlier_ratio, sensitive_ratio)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    cost = (weight.square() * diag_h).flatten()
    mask[cost.argsort(descending=True, stable=True)[:sensitive]] = True
    size = torch.where(mask, -1.0, weight.flatten().abs())
    mask[size.argsort(descending=True, stable=True)[:large]] = True
    return mask.view_as(weight)
