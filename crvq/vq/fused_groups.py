"""Code search on a GPU with one kernel per block of columns instead of twenty per group (Triton).

On a GPU the group by group search is bound by kernel launches, not by arithmetic: groups follow
one another, but rows are independent. Here a program takes a tile of rows through all groups of a
block of columns, which is what `coordinate_descent` and `feedback_search` do otherwise, in the
same order and in float32 (``ieee``) products.

Triton's interpreter (``TRITON_INTERPRET=1``, set before torch and triton are imported) runs the
same kernels on CPU tensors; the tests compare both ways there.
"""

# Arguments of kernels are Triton's pointers and scalars, which have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32
"""Rows of a program: 4096 rows fill a GPU of 128 processors."""
_CHUNK = 256
"""Entries scored at once; their scores are held in registers."""
MOST_ENTRIES = 1 << 12
"""Larger codebooks are scored by one large product a group, which fills a GPU by itself."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _nearest(u, books, norms, ROWS: tl.constexpr, DP: tl.constexpr, E: tl.constexpr,
             CHUNK: tl.constexpr):  # fmt: skip
    """The entry with the least ``norm - 2 u c`` for each row; the first of equal ones."""
    # ‖x - c‖² in the group's metric less ‖x‖², which is the same for all entries. Padded entries
    # have an infinite norm and are never the least.
    j = tl.arange(0, DP)
    least = tl.full((ROWS,), float("inf"), tl.float32)
    best = tl.zeros((ROWS,), tl.int32)
    for start in range(0, E, CHUNK):
        e = start + tl.arange(0, CHUNK)
        entries = tl.load(books + e[None, :] * DP + j[:, None])
        score = tl.load(norms + e)[None, :] - 2.0 * tl.dot(u, entries, input_precision="ieee")
        low = tl.min(score, axis=1)
        where = tl.argmin(score, axis=1).to(tl.int32) + start
        best = tl.where(low < least, where, best)
        least = tl.minimum(low, least)
    return best


@triton.jit
def _descend_kernel(residual_h, value, codes, change, scales, h, books, norms, rows, value_stride,
                    width, first, groups: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                    E: tl.constexpr, CHUNK: tl.constexpr, BOOKS: tl.constexpr, PASSES: tl.constexpr,
                    ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = r < rows
    s = tl.load(scales + r, mask=alive, other=1.0)[:, None]
    j = tl.arange(0, DP)
    column = tl.arange(0, WIDTH)
    cells = alive[:, None] & (j < D)[None, :]
    wide = alive[:, None] & (column < width)[None, :]
    for g in range(groups):
        base = (first + g) * D
        own_rows = h + (base + j)[:, None] * width
        metric = tl.load(own_rows + (base + j)[None, :],
                         mask=(j < D)[:, None] & (j < D)[None, :], other=0.0)  # fmt: skip
        at = r[:, None] * width + (base + j)[None, :]
        value_at = value + r[:, None] * value_stride + (base + j)[None, :]
        before = tl.load(value_at, mask=cells, other=0.0)
        # The loss in this group's value q is s² q M qᵀ - 2 s² t q + const, t = P / s + before M: P
        # has the present value taken off already, which is about to be replaced.
        target = tl.load(residual_h + at, mask=cells, other=0.0) / s
        target += tl.dot(before, metric, input_precision="ieee")
        current = before
        for _ in range(PASSES):
            for k in range(BOOKS):
                code_at = codes + (k * rows + r) * groups + g
                book = books + k * E * DP
                code = tl.load(code_at, mask=alive, other=0)
                # The group's value without this codebook: its entries must reach what is left.
                others = current - tl.load(book + code[:, None] * DP + j[None, :])
                u = target - tl.dot(others, metric, input_precision="ieee")
                best = _nearest(u, book, norms + ((first + g) * BOOKS + k) * E,
                                ROWS, DP, E, CHUNK)  # fmt: skip
                # A program's threads share rows: none may write a code that another still reads.
                tl.debug_barrier()
                tl.store(code_at, best, mask=alive)
                current = others + tl.load(book + best[:, None] * DP + j[None, :])
                tl.debug_barrier()
        # P = (W - Ŵ) H follows the change of Ŵ at all columns of the block.
        delta = (current - before) * s
        tl.store(value_at, current, mask=cells)
        tl.store(change + at, delta, mask=cells)
        answer = tl.load(own_rows + column[None, :],
                         mask=(j < D)[:, None] & (column < width)[None, :], other=0.0)  # fmt: skip
        everywhere = residual_h + r[:, None] * width + column[None, :]
        rest = tl.load(everywhere, mask=wide, other=0.0)
        tl.debug_barrier()
        rest -= tl.dot(delta, answer, input_precision="ieee")
        tl.store(everywhere, rest, mask=wide)
        tl.debug_barrier()


@triton.jit
def _feedback_kernel(left, codes, errors, inverses, factor, books, norms, rows, width,
                     groups: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, E: tl.constexpr,
                     CHUNK: tl.constexpr, ROWS: tl.constexpr,
                     WIDTH: tl.constexpr):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = r < rows
    j = tl.arange(0, DP)
    column = tl.arange(0, WIDTH)
    cells = alive[:, None] & (j < D)[None, :]
    wide = alive[:, None] & (column < width)[None, :]
    square = (j < D)[:, None] & (j < D)[None, :]
    for g in range(groups):
        base = g * D
        inverse_at = inverses + g * D * D
        inverse = tl.load(inverse_at + j[:, None] * D + j[None, :], mask=square, other=0.0)
        turned = tl.load(inverse_at + j[None, :] * D + j[:, None], mask=square, other=0.0)
        at = r[:, None] * width + (base + j)[None, :]
        target = tl.load(left + at, mask=cells, other=0.0)
        # t U⁻¹ U⁻ᵀ: the target in the metric of the group's choice.
        half = tl.dot(target, inverse, input_precision="ieee")
        u = tl.dot(half, turned, input_precision="ieee")
        best = _nearest(u, books, norms + g * E, ROWS, DP, E, CHUNK)
        tl.store(codes + r * groups + g, best, mask=alive)
        value = tl.load(books + best[:, None] * DP + j[None, :])
        # The columns after the group take the error (t - q) U⁻¹ times U's rows of this group.
        error = tl.dot(target - value, inverse, input_precision="ieee")
        tl.store(errors + at, error, mask=cells)
        answer = tl.load(factor + (base + j)[:, None] * width + column[None, :],
                         mask=(j < D)[:, None] & (column < width)[None, :], other=0.0)  # fmt: skip
        everywhere = left + r[:, None] * width + column[None, :]
        rest = tl.load(everywhere, mask=wide, other=0.0)
        tl.debug_barrier()
        rest -= tl.dot(error, answer, input_precision="ieee")
        tl.store(everywhere, rest, mask=wide)
        tl.debug_barrier()


def serves(device: torch.device, codebooks: list[Tensor]) -> bool:
    """Return whether the kernels take codebooks of these sizes on this device."""
    largest = max(len(codebook) for codebook in codebooks)
    return (device.type == "cuda" or INTERPRETED) and largest <= MOST_ENTRIES


def descend_groups(
    residual_h: Tensor,
    value: Tensor,
    codes: list[Tensor],
    scales: Tensor,
    second_moment: Tensor,
    codebooks: list[Tensor],
    groups: tuple[int, int],
    passes: int,
) -> Tensor:
    """Let every codebook choose again for ``groups`` of a block of columns, one after another.

    Args:
        residual_h: ``(W - Ŵ) H`` at the block's columns, ``(rows, columns)``, contiguous;
            kept up to date.
        value: decoded weights at the block's columns, ``(rows, columns)``; kept up to date.
        codes: for each codebook that covers all of ``groups``, ``(rows, groups)``;
            they change in place.
        scales: ``(rows,)``.
        second_moment: H at the block's columns, ``(columns, columns)``, contiguous.
        codebooks: those that ``codes`` point into, each ``(entries, d)``.
        groups: first and last (exclusive), counted in the block.
        passes: how often the codebooks take turns.

    Returns:
        What changed in Ŵ, ``(rows, columns)``; zero outside ``groups``.
    """
    (rows, width), d = residual_h.shape, codebooks[0].shape[1]
    first, count = groups[0], groups[1] - groups[0]
    books = _padded(codebooks)
    metrics = _diagonal_blocks(second_moment, d)
    norms = torch.stack([_norms(codebook, metrics, books.shape[1]) for codebook in codebooks], 1)
    stacked = torch.stack(codes).to(torch.int32)
    change = torch.zeros_like(residual_h)
    _descend_kernel[(triton.cdiv(rows, ROWS),)](
        residual_h, value, stacked, change, scales.contiguous(), second_moment, books, norms,
        rows, value.stride(0), width, first, groups=count,
        D=d, DP=books.shape[2], E=books.shape[1], CHUNK=min(_CHUNK, books.shape[1]),
        BOOKS=len(codebooks), PASSES=passes, ROWS=ROWS, WIDTH=max(16, _power_of_two(width)),
        num_warps=4,
    )  # fmt: skip
    for present, found in zip(codes, stacked, strict=True):
        present.copy_(found)
    return change


def feed_back_groups(
    left: Tensor, codes: Tensor, inverses: Tensor, factor: Tensor, codebook: Tensor
) -> Tensor:
    """Choose one codebook's entries for all groups of a block of columns, errors fed back.

    Args:
        left: what is left to code, in units of the rows' scales, ``(rows, columns)``, contiguous;
            changes in place.
        codes: ``(rows, groups)``; written.
        inverses: ``U_gg⁻¹`` of the block's groups, ``(groups, d, d)``.
        factor: U at the block's columns, ``(columns, columns)``, contiguous.
        codebook: ``(entries, d)``.

    Returns:
        The groups' errors ``(rows, columns)``, which the columns after the block must compensate.
    """
    rows, width = left.shape
    books = _padded([codebook])
    metrics = inverses @ inverses.transpose(1, 2)
    norms = _norms(codebook, metrics, books.shape[1])
    errors = torch.empty_like(left)
    found = torch.empty(codes.shape, dtype=torch.int32, device=left.device)
    _feedback_kernel[(triton.cdiv(rows, ROWS),)](
        left, found, errors, inverses.contiguous(), factor, books, norms,
        rows, width, groups=codes.shape[1],
        D=codebook.shape[1], DP=books.shape[2], E=books.shape[1],
        CHUNK=min(_CHUNK, books.shape[1]), ROWS=ROWS, WIDTH=max(16, _power_of_two(width)),
        num_warps=4,
    )  # fmt: skip
    codes.copy_(found)
    return errors


def _padded(codebooks: list[Tensor]) -> Tensor:
    """Codebooks side by side, sizes and d padded as the kernels' products want them."""
    entries = max(16, _power_of_two(max(len(codebook) for codebook in codebooks)))
    d = codebooks[0].shape[1]
    books = codebooks[0].new_zeros(len(codebooks), entries, max(16, _power_of_two(d)))
    for padded, codebook in zip(books, codebooks, strict=True):
        padded[: len(codebook), :d] = codebook
    return books


def _norms(codebook: Tensor, metrics: Tensor, entries: int) -> Tensor:
    """``c M cᵀ`` for each group's metric and each entry, ``(groups, entries)``; ∞ for padding."""
    norms = codebook.new_full((len(metrics), entries), torch.inf)
    norms[:, : len(codebook)] = ((codebook @ metrics) * codebook).sum(2)
    return norms


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    """Return the blocks on the diagonal, ``(groups, size, size)``."""
    groups = len(matrix) // size
    return matrix.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
