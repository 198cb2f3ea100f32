"""An additive code: sums of codebook entries stand for groups of neighbouring in features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


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
        first = functional.embedding(self.codes[0][rows], codebooks[0])
        for codes, codebook in zip(self.codes[1:], codebooks[1:], strict=True):
            first[:, : codes.shape[1]] += functional.embedding(codes[rows], codebook)
        return first.flatten(1)

    def dequantize(self, codebooks: list[Tensor], rows: slice = slice(None)) -> Tensor:
        """Scaled weights in coded column order: ``(rows, groups * d)``."""
        return self.decode(codebooks, rows) * self.scales[rows, None]
