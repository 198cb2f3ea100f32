"""Torch's side of the compiled CPU kernels: what they are handed, and how rows are shared out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crvq.vq import compiled_groups
from crvq.vq.compiled_vectors import LANES
from crvq.vq.kernels import over_rows

_Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Books:
    """Codebooks side by side, padded to one size that is a multiple of 16."""

    tables: _Array
    """Transposed, in blocks: ``(codebooks, entries / 16, d, 16)``."""
    entries: _Array
    """``(codebooks, entries, d)``."""
    norms: _Array
    """``c M cᵀ`` for each group's M, infinite for padding: ``(codebooks, groups, entries)``."""


def _books(codebooks: list[Tensor], metrics: Tensor) -> _Books:
    size = _padded(max(len(codebook) for codebook in codebooks))
    d = metrics.shape[1]
    entries = metrics.new_zeros(len(codebooks), size, d)
    norms = metrics.new_full((len(codebooks), len(metrics), size), torch.inf)
    for k, codebook in enumerate(codebooks):
        entries[k, : len(codebook)] = codebook
        norms[k, :, : len(codebook)] = ((codebook @ metrics) * codebook).sum(2)
    tables = entries.view(len(codebooks), -1, LANES, d).transpose(2, 3).contiguous()
    return _Books(tables.numpy(), entries.numpy(), norms.numpy())


def _padded(count: int) -> int:
    return -(-count // LANES) * LANES


def _in_blocks(matrix: Tensor) -> _Array:
    """``(rows, columns)`` as ``(columns / 16, rows, 16)``, padded by zeros."""
    rows, columns = matrix.shape
    if columns % LANES:
        matrix = torch.nn.functional.pad(matrix, (0, _padded(columns) - columns))
    blocks: _Array = matrix.view(rows, -1, LANES).transpose(0, 1).contiguous().numpy()
    return blocks


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    """Return the blocks on the diagonal, ``(groups, size, size)``."""
    groups = len(matrix) // size
    blocks = matrix.view(groups, size, groups, size).diagonal(dim1=0, dim2=2)
    return blocks.permute(2, 0, 1).contiguous()


def nearest_rows(x: Tensor, table: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each row of ``x (rows, k)`` the entry e with the least ``base[e] + x · table[:, e]``.

    Args:
        x: ``(rows, k)``.
        table: ``(k, entries)``.
        base: ``(entries,)``; zeros if None.

    Returns:
        Indices and values, ``(rows,)`` each; of equal entries the first is taken.
    """
    size = table.shape[1]
    padded = x.new_full((_padded(size),), torch.inf)
    padded[:size] = 0.0 if base is None else base
    indices, least = x.new_empty(len(x), dtype=torch.int64), x.new_empty(len(x))
    arrays = x.contiguous().numpy(), _in_blocks(table.contiguous()), padded.numpy()
    written = indices.numpy(), least.numpy()
    over_rows(lambda first, last: compiled_groups.nearest(*arrays, first, last, *written), len(x))
    return indices, least


def add_by_entry(total: Tensor, values: Tensor, codes: Tensor) -> None:
    """Add each group's d values to its entry's, ``total (entries, d)`` in float64."""
    compiled_groups.add_by_entry(total.numpy(), values.numpy(), codes.numpy())


def descend_groups(
    residual_h: Tensor,
    decoded: Tensor,
    codes: list[Tensor],
    scales: Tensor,
    second_moment: Tensor,
    codebooks: list[Tensor],
    groups: tuple[int, int],
    passes: int,
) -> Tensor:
    """Let every codebook choose again for ``groups`` of a block; as `fused_groups.descend_groups`.

    ``residual_h`` is kept up to date for the columns after ``groups`` only.
    """
    rows, columns = residual_h.shape
    width = _padded(columns)
    padded = residual_h if width == columns else torch.nn.functional.pad(
        residual_h, (0, width - columns)
    )  # fmt: skip
    metrics = _diagonal_blocks(second_moment, codebooks[0].shape[1])
    books = _books(codebooks, metrics)
    # One codebook's codes change where they are; several are put side by side.
    stacked = codes[0][None] if len(codes) == 1 else torch.stack(codes)
    change = torch.zeros_like(residual_h)
    arguments = (
        padded.numpy(), decoded.numpy(), stacked.numpy(), change.numpy(), scales.numpy(),
        _in_blocks(second_moment), metrics.numpy(), books.tables, books.entries, books.norms,
        groups[0], passes,
    )  # fmt: skip
    over_rows(lambda first, last: compiled_groups.descend(*arguments, first, last), rows)
    if len(codes) > 1:
        for present, found in zip(codes, stacked, strict=True):
            present.copy_(found)
    if padded is not residual_h:
        residual_h.copy_(padded[:, :columns])
    return change


class BlockFeedback:
    """A block of columns in the error-feedback search of a tile of rows.

    Args:
        left: what each survivor has left to code, ``(rows, survivors, columns)``.
        beam: survivors kept after each group.
        inner: survivors kept between the codebooks of one group.
        inverses: ``U_gg⁻¹`` of the block's groups, ``(groups, d, d)``.
        factor: U at the block's columns, ``(columns, columns)``.
        cost: of the survivors, ``(rows, survivors)``.
    """

    def __init__(
        self, left: Tensor, beam: int, inner: int, inverses: Tensor, factor: Tensor, cost: Tensor
    ) -> None:
        rows, self.survivors, self._columns = left.shape
        self._beam, self._inner = beam, inner
        self._left = left.new_zeros(rows, beam, _padded(self._columns))
        self._left[:, : self.survivors, : self._columns] = left
        self._errors = torch.zeros_like(self._left)
        self._cost = left.new_zeros(rows, beam)
        self._cost[:, : self.survivors] = cost
        self._origin = torch.arange(beam).expand(rows, -1).contiguous()
        self._inverses, self._factor = inverses.contiguous(), _in_blocks(factor)
        self._metrics = inverses @ inverses.mT

    def extend(
        self, codebooks: list[Tensor], groups: tuple[int, int]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Code ``groups`` of the block, which all of ``codebooks`` cover.

        Returns:
            For each group the parents ``(rows, survivors)``, and the entries of each codebook.
        """
        rows, count = len(self._left), groups[1] - groups[0]
        books = _books(codebooks, self._metrics)
        parents = torch.empty(count, rows, self._beam, dtype=torch.int64)
        choices = torch.empty(count, len(codebooks), rows, self._beam, dtype=torch.int64)
        arguments = (
            self._left.numpy(), self._errors.numpy(), self._cost.numpy(), self._origin.numpy(),
            parents.numpy(), choices.numpy(), self._factor, self._inverses.numpy(),
            self._metrics.numpy(), books.tables, books.entries, books.norms,
            np.array([len(codebook) for codebook in codebooks]), groups[0], self.survivors,
            self._beam, self._inner if len(codebooks) > 1 else self._beam,
        )  # fmt: skip
        over_rows(lambda first, last: compiled_groups.feed_back(*arguments, first, last), rows)
        widths = self._widths([len(codebook) for codebook in codebooks], count)
        self.survivors = widths[-1]
        kept = list(zip(parents, choices, widths, strict=True))
        return (
            [parent[:, :width] for parent, _, width in kept],
            [[entry[:, :width] for entry in choice] for _, choice, width in kept],
        )

    def _widths(self, sizes: list[int], groups: int) -> list[int]:
        """Survivors after each of ``groups`` groups."""
        widths, width = [], self.survivors
        for _ in range(groups):
            for turn, size in enumerate(sizes):
                wanted = self._beam if turn == len(sizes) - 1 else self._inner
                width = min(wanted, width * min(wanted, size))
            widths.append(width)
        return widths

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Errors of the block's columns, the survivors' origins at its start, and their costs."""
        return (
            self._errors[:, : self.survivors, : self._columns],
            self._origin[:, : self.survivors],
            self._cost[:, : self.survivors].clone(),
        )
