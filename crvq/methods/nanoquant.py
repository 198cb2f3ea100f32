"""NanoQuant: low-rank binary factors between two scale vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.binary_params import NanoQuantParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.binary import signed
from crvq.vq.storage import to_float16
from crvq.vq.two_sided import binary_factors, fit_two_sided
from crvq.weights.bits import BitCount
from crvq.weights.two_sided_signs import BinaryFactorsSizes, BinaryFactorsWeight


@register_method("nanoquant")
class NanoQuantMethod(LinearByLinear[NanoQuantParams]):
    """NanoQuant (arXiv 2602.06694): ``W ≈ diag(a) U Vᵀ diag(b)`` with U and V of ±1.

    Factors start from ADMM on the weights scaled by the inputs' importance (square roots of H's
    diagonal, shrunk towards their mean by ``shrinkage``); scales are then refitted under the whole
    H. The authors' importance also has gradients of the outputs, which a method here does not see;
    between these steps they tune the other weights of the block, and factors through a
    straight-through estimator. Their last step, distillation of scales alone, is
    ``finetune=block_e2e``; ``finetune=block`` stands for the tuning of a block.

    Everything is counted: ``rank (out + in)`` signs and ``out + in`` float16 scales. ``bits`` sets
    the rank of each linear so that all of it stays below that.

    Above about 2 bits the rank exceeds that of the weight, and other methods lose less.

    Budget rule: of 0.2 to 4 bits in steps of a hundredth, the most.
    """

    Params: ClassVar[type[StrictModel]] = NanoQuantParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Factors by ADMM, then scales under H."""
        params, weight, matrix = self.params, linear.weight, linear.hessian.matrix
        importance = matrix.diagonal().clamp_min(0).sqrt()
        mean = importance.mean().clamp_min(torch.finfo(torch.float32).tiny)
        importance = (1 - params.shrinkage) * importance + params.shrinkage * mean
        importance = importance.clamp_min(1e-4 * mean) / mean
        rank = rank_for(params.bits, len(weight), weight.shape[1])
        size = weight.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        left, right, rows, columns = binary_factors(
            weight / size * importance, rank, params.iterations, params.regularization, linear.seed
        )
        scales = fit_two_sided(
            weight,
            signed(left) @ signed(right).T,
            matrix,
            (rows * size, columns / importance),
            params.refine_iterations,
        )
        rows, columns = (to_float16(one, "a scale") for one in _balanced(*scales))
        return Rounded(BinaryFactorsWeight(left, right, rows, columns))

    def layouts(self) -> Iterable[NanoQuantParams]:
        """Most bits first."""
        for hundredths in range(400, 19, -1):
            yield self.params.model_copy(update={"bits": hundredths / 100})

    def count(self, params: NanoQuantParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        rank = rank_for(params.bits, rows, columns)
        return BinaryFactorsWeight.count(
            BinaryFactorsSizes(out_features=rows, in_features=columns, rank=rank)
        )


def rank_for(bits: float, rows: int, columns: int) -> int:
    """Return the largest rank with at most ``bits`` per weight, scales counted; at least 1."""
    return max(1, int(bits * rows * columns / (rows + columns)) - 16)


def _balanced(rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both vectors the same mean magnitude: neither then falls out of float16's range."""
    tiny = torch.finfo(torch.float32).tiny
    ratio = (columns.abs().mean().clamp_min(tiny) / rows.abs().mean().clamp_min(tiny)).sqrt()
    return rows * ratio, columns / ratio
