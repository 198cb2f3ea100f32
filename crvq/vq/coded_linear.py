"""One linear on its way to codes: weights and curvature in coded column order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from crvq.vq.additive_code import AdditiveCode, code_loss
from crvq.vq.curvature import Curvature
from crvq.vq.tiles import tiles
from crvq.vq.triangular import permuted


@dataclass
class CodedLinear:
    """A weight whose columns lie in coded order, its curvature, and its current code."""

    weight: Tensor
    """``(out, groups * d)``, float32, columns permuted by π."""
    curvature: Curvature = field(repr=False)
    """Of the input, in natural order; linears that read one input share it."""
    order: Tensor = field(repr=False)
    """π, ``(groups * d,)``."""
    code: AdditiveCode
    importance: float = 1.0
    """Weight of this linear's loss when several linears share codebooks."""

    @cached_property
    def second_moment(self) -> Tensor:
        """H permuted by π on both sides; made when first needed, as it is often the largest."""
        return permuted(self.curvature.matrix, self.order, torch.float32)

    @cached_property
    def stiffness(self) -> Tensor:
        """``1 / diag(H⁻¹)`` permuted by π."""
        return self.curvature.stiffness[self.order]

    @cached_property
    def feedback_factor(self) -> Tensor:
        """U with ``H⁻¹ = Uᵀ U`` in coded order; see `Curvature.feedback_factor`."""
        return self.curvature.feedback_factor(self.order)

    def release_feedback_factor(self) -> None:
        """Free the factor's memory, which is as large as H's; asked for again, it is remade."""
        self.__dict__.pop("feedback_factor", None)

    @property
    def group_size(self) -> int:
        """d."""
        return self.weight.shape[1] // self.code.groups

    @cached_property
    def energy(self) -> float:
        """``tr(W H Wᵀ)``: the loss of quantizing everything to zero."""
        zero = AdditiveCode([self.code.codes[0]], torch.zeros_like(self.code.scales))
        nothing = [self.weight.new_zeros(1, self.group_size)]
        zero.codes = [torch.zeros_like(self.code.codes[0])]
        return float(code_loss(self.weight, self.second_moment, zero, nothing).sum())

    def row_loss(self, codebooks: list[Tensor], code: AdditiveCode | None = None) -> Tensor:
        """Each row's ``(w - ŵ) H (w - ŵ)ᵀ``, ``(out,)``, of ``code`` or the current one."""
        return code_loss(self.weight, self.second_moment, code or self.code, codebooks)

    def row_tiles(self) -> Iterator[slice]:
        """Rows in slices that keep temporaries of the weight's width small."""
        return tiles(self.weight.shape[0], self.weight.shape[1], self.weight.device)

    def diagonal_blocks(self) -> Tensor:
        """The d x d blocks on H's diagonal, ``(groups, d, d)``."""
        d, groups = self.group_size, self.code.groups
        blocks = self.second_moment.view(groups, d, groups, d)
        return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def coded_linear(
    weight: Tensor,
    curvature: Curvature,
    order: Tensor,
    coverage: list[int],
    scales: Tensor,
) -> CodedLinear:
    """Permute a weight and its curvature by ``order`` and give it an all-zero code.

    Args:
        weight: ``(out, in)``, float32, natural column order, padded to whole groups.
        curvature: of the same (padded) channels.
        order: π, ``(in,)``.
        coverage: groups that each codebook covers, the first being all of them.
        scales: ``(out,)``.
    """
    codes = [
        torch.zeros((len(weight), groups), dtype=torch.int64, device=weight.device)
        for groups in coverage
    ]
    return CodedLinear(
        weight=weight[:, order].contiguous(),
        curvature=curvature,
        order=order,
        code=AdditiveCode(codes, scales),
    )
