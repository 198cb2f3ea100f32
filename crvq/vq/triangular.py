"""Triangular factors of an inverse, computed in the memory of one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles

_LEAF = 256
_REVERSED_AT_ONCE = 1 << 20


def inverse_factor(
    matrix: Tensor, order: Tensor, ridge: float, dtype: torch.dtype
) -> Tensor | None:
    """Upper triangular U with ``(M + ridge I)⁻¹ = Uᵀ U``, rows and columns taken in ``order``.

    With ``M = R Rᵀ`` and R upper triangular, ``U = R⁻¹``; R is the Cholesky factor of M with rows
    and columns reversed, reversed back. So M's inverse is never formed, and all is done in the
    memory of the result.

    Returns:
        U, or None where ``M + ridge I`` is not positive definite.
    """
    # LAPACK factors M = L Lᵀ with L lower triangular, but R is upper triangular. Reversing rows and
    # columns turns one into the other: with J the reversal, J M J = L Lᵀ gives R = J L J.
    work = permuted(matrix, order.flip(0), dtype)
    work.diagonal().add_(ridge)
    failed = torch.empty((), dtype=torch.int32, device=work.device)
    # LAPACK's columns are our rows: given as a transpose, the factor is written in place.
    torch.linalg.cholesky_ex(work.mT, out=(work.mT, failed))
    if bool(failed):
        return None
    # work is now Lᵀ, and inverted L⁻ᵀ = J Uᵀ J. Reversing all elements of a matrix reverses rows
    # and columns, which leaves Uᵀ.
    invert_upper_(work)
    _reverse_(work.view(-1))
    return work.mT


def permuted(matrix: Tensor, order: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows and columns of ``matrix`` in ``order``, without a second temporary of its size."""
    result = torch.empty(len(order), len(order), dtype=dtype, device=matrix.device)
    for start in range(0, len(order), _LEAF):
        result[start : start + _LEAF] = matrix[order[start : start + _LEAF]][:, order]
    return result


def invert_upper_(triangle: Tensor) -> None:
    """Replace an upper triangular matrix by its inverse; its lower part must be zero.

    By halves: the inverse of ``[[A, B], [0, C]]`` is ``[[A⁻¹, -A⁻¹ B C⁻¹], [0, C⁻¹]]``.
    """
    size = len(triangle)
    if size <= _LEAF:
        identity = torch.eye(size, dtype=triangle.dtype, device=triangle.device)
        triangle.copy_(torch.linalg.solve_triangular(triangle, identity, upper=True))
        return
    # The halves first, as the corner's formula wants their inverses; they end where they began.
    half = size // 2
    invert_upper_(triangle[:half, :half])
    invert_upper_(triangle[half:, half:])
    # A⁻¹ B by columns, then (A⁻¹ B) C⁻¹ by rows: each tile is replaced by its own product, so that
    # the only temporary is one tile.
    corner = triangle[:half, half:]
    for columns in tiles(size - half, half, triangle.device):
        corner[:, columns] = triangle[:half, :half] @ corner[:, columns]
    for rows in tiles(half, size - half, triangle.device):
        corner[rows] = (corner[rows] @ triangle[half:, half:]).neg_()


def _reverse_(flat: Tensor) -> None:
    """Reverse the elements of a vector in place, some at a time."""
    size = len(flat)
    for start in range(0, size // 2, _REVERSED_AT_ONCE):
        end = min(start + _REVERSED_AT_ONCE, size // 2)
        front = flat[start:end].flip(0)
        flat[start:end] = flat[size - end : size - start].flip(0)
        flat[size - end : size - start] = front
