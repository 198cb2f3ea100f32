"""Additive codes: sums of codebook entries stand for groups of in features, linear by linear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from crvq.vq.computed_once import computed_once
from crvq.vq.hessian import Hessian
from crvq.vq.tiles import tiles
from crvq.vq.triangular import permuted


@dataclass
class AdditiveCode:
    """Codes and row scales of one linear, for codebooks that it may share with others.

    Codebook ``k`` of shape ``(entries_k, d)`` covers the first ``codes[k].shape[1]`` groups of
    ``d`` columns. CRVQ: the basic codebook covers every group, extended ones the critical groups
    (arXiv 2412.09282, section 3). AQLM: all codebooks cover all groups.
    """

    codes: list[Tensor]
    """``codes[k]`` of shape ``(out, groups_k)``, int64; ``groups_0`` is the largest."""
    scales: Tensor
    """``(out,)``, float32."""

    @property
    def groups(self) -> int:
        """Number of groups of columns."""
        return self.codes[0].shape[1]

    def coverage(self) -> list[int]:
        """Groups that each codebook covers."""
        return [codes.shape[1] for codes in self.codes]

    def decode(self, codebooks: list[Tensor], rows: slice = slice(None)) -> Tensor:
        """Sums of codebook entries, not yet scaled: ``(rows, groups * d)``."""
        # `embedding` gathers whole d-vectors at once: several times as fast as indexing on a CPU.
        first = functional.embedding(self.codes[0][rows], codebooks[0])
        # Extended codebooks cover a prefix of the groups, since critical channels come first.
        for codes, codebook in zip(self.codes[1:], codebooks[1:], strict=True):
            first[:, : codes.shape[1]] += functional.embedding(codes[rows], codebook)
        return first.flatten(1)

    def dequantize(self, codebooks: list[Tensor], rows: slice = slice(None)) -> Tensor:
        """Scaled weights in coded column order: ``(rows, groups * d)``."""
        return self.decode(codebooks, rows) * self.scales[rows, None]


@dataclass
class CodedLinear:
    """A weight, the Hessian of its input, the order of its channels, and its current code."""

    weight: Tensor
    """``(out, groups * d)``, float32, natural order; not to be changed."""
    hessian: Hessian = field(repr=False)
    """Of the input, natural order; linears that read one input share it."""
    order: Tensor = field(repr=False)
    """π, ``(groups * d,)``: coded position p holds channel π[p]."""
    code: AdditiveCode
    importance: float = 1.0
    """Weight of this linear's loss when several linears share codebooks."""

    @computed_once
    def inverse_order(self) -> Tensor:
        """π⁻¹, ``(groups * d,)``: channel j lies at coded position π⁻¹[j]."""
        return self.order.argsort()

    @computed_once
    def in_order(self) -> bool:
        """Whether natural order is coded order, so that no columns need to be gathered."""
        return bool(torch.equal(self.order, torch.arange(len(self.order)).to(self.order)))

    def natural(self, coded: Tensor) -> Tensor:
        """Columns ``(rows, groups * d)`` from coded to natural order."""
        return coded if self.in_order else coded[:, self.inverse_order]

    def coded(self, natural: Tensor) -> Tensor:
        """Columns ``(rows, groups * d)`` from natural to coded order."""
        return natural if self.in_order else natural[:, self.order]

    def decode(self, codebooks: list[Tensor], rows: slice) -> Tensor:
        """Unscaled decoded rows, natural order: ``(rows, groups * d)``."""
        return self.natural(self.code.decode(codebooks, rows))

    @computed_once
    def inv_diag_weight(self) -> Tensor:
        """``1 / diag(H⁻¹)`` permuted by π."""
        return self.hessian.inv_diag_weight[self.order]

    @computed_once
    def feedback_factor(self) -> Tensor:
        """U with ``H⁻¹ = Uᵀ U`` in coded order; see `Hessian.feedback_factor`."""
        return self.hessian.feedback_factor(self.order)

    def release_feedback_factor(self) -> None:
        """Free the factor's memory, which is as large as H's; asked for again, it is remade."""
        self.__dict__.pop("feedback_factor", None)

    @property
    def group_size(self) -> int:
        """d."""
        return self.weight.shape[1] // self.code.groups

    @computed_once
    def energy(self) -> float:
        """``tr(W H Wᵀ)``: the loss of quantizing everything to zero."""
        # Tile by tile: `W H` of a whole layer would be another tensor of the weight's size.
        parts = (self.weight[rows] for rows in self.row_tiles())
        return float(sum(((part @ self.hessian.matrix) * part).sum() for part in parts))

    def row_loss(self, codebooks: list[Tensor], code: AdditiveCode | None = None) -> Tensor:
        """Each row's ``(w - ŵ) H (w - ŵ)ᵀ``, ``(out,)``, of ``code`` or the current one."""
        code = code or self.code
        loss = torch.empty_like(code.scales)
        for rows in self.row_tiles():
            # In natural order, as H is: reordering one error is cheaper than reordering H.
            error = self.weight[rows] - self.natural(code.dequantize(codebooks, rows))
            loss[rows] = ((error @ self.hessian.matrix) * error).sum(1)
        return loss

    def row_tiles(self) -> Iterator[slice]:
        """Rows in slices that keep temporaries of the weight's width small."""
        return tiles(self.weight.shape[0], self.weight.shape[1], self.weight.device)

    def diagonal_blocks(self) -> Tensor:
        """H's d x d block of each group, ``(groups, d, d)``."""
        # The channels of each group, which lie apart from each other in H.
        members = self.order.view(self.code.groups, -1)
        return self.hessian.matrix[members[:, :, None], members[:, None, :]]


def coded_linear(
    weight: Tensor,
    hessian: Hessian,
    order: Tensor,
    coverage: list[int],
    scales: Tensor,
) -> CodedLinear:
    """Give a weight an all-zero code.

    Args:
        weight: ``(out, in)``, float32, natural column order, padded to whole groups.
        hessian: of the same (padded) channels.
        order: π, ``(in,)``.
        coverage: groups that each codebook covers, the first being all of them.
        scales: ``(out,)``.
    """
    # int64 is what torch indexes with; storage packs codes to their width (`crvq.weights.fields`).
    codes = [
        torch.zeros((len(weight), groups), dtype=torch.int64, device=weight.device)
        for groups in coverage
    ]
    return CodedLinear(
        weight=weight,
        hessian=hessian,
        order=order,
        code=AdditiveCode(codes, scales),
    )


def in_coded_order(linear: CodedLinear) -> CodedLinear:
    """Return the same linear with channels in coded order; its code is shared, not copied.

    W and H are copied in their new order once, so that no pass over them needs to gather columns.
    """
    if linear.in_order:
        return linear
    hessian = Hessian(
        permuted(linear.hessian.matrix, linear.order, torch.float32), linear.hessian.damping
    )
    # The copy's channels lie in coded order already, so its own order is the identity.
    order = torch.arange(len(linear.order), device=linear.order.device)
    weight = linear.weight[:, linear.order]
    return CodedLinear(weight, hessian, order, linear.code, linear.importance)


def evenly_covered(linear: CodedLinear, span: tuple[int, int]) -> list[tuple[int, int]]:
    """``span`` cut where the number of codebooks that cover a group changes."""
    edges = {edge for edge in linear.code.coverage() if span[0] < edge < span[1]}
    return list(pairwise(sorted({*span, *edges})))
