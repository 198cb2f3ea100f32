"""Columns quantized as vectors along the output dimension: the quantizer inside VPTQ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crvq.vq.kmeans import nearest_centroids


def output_vectors(weight: Tensor, size: int) -> Tensor:
    """Cut each column into vectors of ``size`` rows, the last one padded with zeros.

    Args:
        weight: ``(out, columns)``.
        size: v.

    Returns:
        ``(ceil(out / v), columns, v)``.
    """
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -len(weight) % size))
    return padded.view(-1, size, weight.shape[1]).transpose(1, 2)


def from_output_vectors(vectors: Tensor, out_features: int) -> Tensor:
    """Return the ``(out, columns)`` weight that `output_vectors` cut, without padded rows."""
    return vectors.transpose(1, 2).flatten(0, 1)[:out_features]


class OutputVectorColumns:
    """A `ColumnQuantizer` of one column at a time (VPTQ, arXiv 2409.17066, section 3.1).

    All rows of a column share H, so an error of a column costs ``|e|² / [H⁻¹]_jj`` whatever the
    rows: the nearest centroid is the best one, and its error is answered by later columns. This is
    the paper's "channel-independent" second-order optimization.

    Args:
        codebooks: of each stage, ``(entries, v)``; a later stage codes what earlier ones leave.
        out_features: rows.
        columns: of the weight.
    """

    width = 1

    def __init__(self, codebooks: Sequence[Tensor], out_features: int, columns: int) -> None:
        self.span = columns
        self._codebooks, self._size = codebooks, codebooks[0].shape[1]
        positions = -(-out_features // self._size)
        device = codebooks[0].device
        self.codes = [
            torch.zeros(positions, columns, dtype=torch.int64, device=device) for _ in codebooks
        ]

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit no parameters: codebooks are given."""

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Take the nearest centroid of each stage in turn."""
        left = output_vectors(weight, self._size)
        total = torch.zeros_like(left)
        for codebook, codes in zip(self._codebooks, self.codes, strict=True):
            # A stage codes what the stages before have left over.
            flat = (left - total).flatten(0, 1)
            # All rows of a column share its cost, so plain distances choose the best centroid.
            chosen = nearest_centroids(flat, torch.ones_like(flat), codebook)[0]
            codes[:, columns] = chosen.view(left.shape[:2])
            total = total + codebook[codes[:, columns]]
        return from_output_vectors(total, len(weight))


class OutlierColumns:
    """A `ColumnQuantizer` that hands the first columns to one quantizer and the rest to another.

    Args:
        first: quantizes columns ``0`` to ``outliers``; None if there are none.
        rest: quantizes the others, whose places it counts from zero.
        outliers: columns that ``first`` takes.
        columns: of the weight.
    """

    width = 1

    def __init__(
        self,
        first: OutputVectorColumns | None,
        rest: OutputVectorColumns,
        outliers: int,
        columns: int,
    ) -> None:
        self._first, self._rest, self._outliers, self.span = first, rest, outliers, columns

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit no parameters."""

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Quantize one column by the quantizer that it belongs to."""
        if columns.start < self._outliers:
            assert self._first is not None
            return self._first.quantize(columns, weight, metric)
        own = slice(columns.start - self._outliers, columns.stop - self._outliers)
        return self._rest.quantize(own, weight, metric)
