"""Many small codebooks, each for a patch of a weight: some rows of a strip of columns.

(GPTVQ, arXiv 2402.15319, section 3.) A weight ``(out, in)`` is cut into strips of ``columns``
columns and each strip into bands of ``rows`` rows; the patch of strip s and band b has codebook
``[s, b]``. Rows are padded to whole bands while codebooks are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crvq.vq.storage import to_positive_float16


@dataclass(frozen=True)
class PatchLayout:
    """Where the patches of a weight lie."""

    out_features: int
    in_features: int
    """A multiple of ``width``."""
    width: int
    """d."""
    columns: int
    """Of a strip; a multiple of ``width``."""
    rows: int
    """Of a band."""

    @property
    def strips(self) -> int:
        """Strips of columns; the last may be narrower."""
        return -(-self.in_features // self.columns)

    @property
    def bands(self) -> int:
        """Bands of rows; the last may hold fewer."""
        return -(-self.out_features // self.rows)

    def codebook_index(self, device: torch.device) -> Tensor:
        """Return the number ``s * bands + b`` of each vector's codebook, ``(out, in / d)``."""
        strips = torch.arange(0, self.in_features, self.width, device=device) // self.columns
        bands = torch.arange(self.out_features, device=device) // self.rows
        return strips * self.bands + bands[:, None]


def decode_patches(codebooks: Tensor, codes: Tensor, index: Tensor) -> Tensor:
    """Return what codes stand for, ``(out, in)``.

    Args:
        codebooks: ``(number of codebooks, entries, d)``.
        codes: ``(out, in / d)``.
        index: each vector's codebook, ``(out, in / d)``; see `PatchLayout.codebook_index`.
    """
    entries = codebooks.shape[1]
    return codebooks.flatten(0, 1)[index * entries + codes].flatten(1)


def solve_patches(
    weight: Tensor,
    second_moment: Tensor,
    codebooks: Tensor,
    codes: Tensor,
    index: Tensor,
    scales: Tensor | None,
    steps: int,
) -> Tensor:
    """Return codebooks that lower ``tr((W - Ŵ) H (W - Ŵ)ᵀ)`` for fixed codes and scales.

    A convex quadratic (GPTVQ, section 3.3, takes gradient steps); here conjugate gradient,
    preconditioned by how often each entry is used and how large diag(H) is at its columns.

    Args:
        weight: ``(out, in)``.
        second_moment: H, ``(in, in)``.
        codebooks: where to start, ``(number, entries, d)``.
        codes: ``(out, in / d)``.
        index: ``(out, in / d)``.
        scales: what decoded weights are multiplied by, ``(out, in)``, or None.
        steps: of conjugate gradient.
    """
    slots = (index * codebooks.shape[1] + codes).flatten()

    def decode(books: Tensor) -> Tensor:
        decoded = decode_patches(books, codes, index)
        return decoded if scales is None else decoded * scales

    # The transpose of `decode`: sums over all places where an entry is used.
    def gather(errors: Tensor) -> Tensor:
        scaled = errors if scales is None else errors * scales
        vectors = scaled.reshape(-1, codebooks.shape[2])
        total = torch.zeros_like(codebooks).flatten(0, 1)
        return total.index_add_(0, slots, vectors).view_as(codebooks)

    # The gradient with respect to the entries is -2 gather((W - Ŵ) H); the diagonal of the normal
    # equations is about how often an entry is used, times diag(H), which preconditions the steps.
    diag_h = second_moment.diagonal().expand_as(weight)
    uses = gather(diag_h if scales is None else diag_h * scales)
    solution = codebooks.clone()
    residual = gather((weight - decode(codebooks)) @ second_moment)
    # Entries that no vector uses have no gradient: they stay as they are.
    precondition = torch.where(uses > 0, uses.clamp_min(1e-30).reciprocal(), 0.0)
    direction = precondition * residual
    slope = (residual * direction).sum()
    # Beyond float32's precision a recurrence drifts away from the optimum that it has reached.
    least = slope * torch.finfo(torch.float32).eps ** 2
    for _ in range(steps):
        image = gather(decode(direction) @ second_moment)
        direction_curvature = (direction * image).sum()
        worth = (direction_curvature > 0) & (slope > least)
        length = torch.where(worth, slope / direction_curvature, 0.0)
        solution += length * direction
        residual -= length * image
        preconditioned = precondition * residual
        new_slope = (residual * preconditioned).sum()
        ratio = torch.where(slope > 0, new_slope / slope, 0.0)
        direction, slope = preconditioned + ratio * direction, new_slope
    return solution


def store_patches(codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit entries, and a float16 step for each codebook (GPTVQ, section 3.3).

    Returns:
        int8 ``(number, entries, d)`` and float32 ``(number,)`` that float16 holds.

    Raises:
        StorageRangeError: an entry is NaN or infinite.
    """
    largest = codebooks.abs().amax((1, 2))
    steps = to_positive_float16(largest / 127, "a codebook entry")
    entries = (codebooks / steps[:, None, None]).round().clamp(-127, 127)
    return entries.to(torch.int8), steps


def load_patches(entries: Tensor, steps: Tensor) -> Tensor:
    """Return the float32 codebooks that `store_patches` stored."""
    return entries.float() * steps[:, None, None]
