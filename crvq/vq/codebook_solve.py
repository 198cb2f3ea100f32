"""The best codebooks for given codes and scales: conjugate gradient on the normal equations.

With codes and scales fixed, the loss ``Σ_o (w_o - ŵ_o) H (w_o - ŵ_o)ᵀ`` is a convex quadratic in
the codebook entries (arXiv 2412.09282, section 3; the authors take 100 Adam steps on it). Each
step costs one product with H. The preconditioner is the quadratic's block diagonal, one d x d
block an entry: what the entry costs by itself, wherever it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear
from crvq.vq.kernels import compiled_search_for
from crvq.vq.tiles import tile_elements

# A ridge on each entry's block, relative to the block's and to the typical block's trace: an
# entry that no weight uses has a zero block (and a zero gradient, so it stays where it is).
_OWN_RIDGE = 1e-4
_TYPICAL_RIDGE = 1e-7


def solve_codebooks(
    linears: list[CodedLinear],
    codebooks: list[Tensor],
    max_steps: int,
    tolerance: float = 1e-3,
    residual: Tensor | None = None,
) -> list[Tensor]:
    """Codebooks that lower the summed loss of ``linears``; codes and scales stay as they are.

    Args:
        linears: all that use these codebooks.
        codebooks: where to start, each ``(entries_k, d)``.
        max_steps: conjugate-gradient steps at most.
        tolerance: stop when a step brings less than this part of the gain so far.
        residual: half the negative gradient at ``codebooks``, ``(all entries, d)``, where the
            caller has it; it costs a product with H otherwise.

    Returns:
        New codebooks, never worse than the given ones beyond rounding.
    """
    sizes = [len(codebook) for codebook in codebooks]
    if max_steps < 1 or not linears:
        return codebooks
    factor = _preconditioner(linears, sizes)

    def precondition(residual: Tensor) -> Tensor:
        return torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0]

    # Unknowns are all entries of all codebooks, stacked: A c = b with A the normal matrix, which
    # is never formed. It is applied by decoding c, multiplying by H and summing by entry.
    solution = torch.cat(codebooks)
    if residual is None:
        residual = _sum_by_entry(linears, codebooks, of_error=True)
    direction = preconditioned = precondition(residual)
    slope = (residual * preconditioned).sum()
    gain = slope.new_zeros(())
    # Scalars stay on the device; only the stopping test looks at one, every few steps.
    for step in range(max_steps):
        image = _sum_by_entry(linears, list(direction.split(sizes)), of_error=False)
        direction_curvature = (direction * image).sum()
        # Rounding may leave a direction without curvature: then there is nothing left to gain.
        length = torch.where(direction_curvature > 0, slope / direction_curvature, 0.0)
        solution = solution + length * direction
        residual = residual - length * image
        step_gain = length * slope  # by how much this step lowers the loss
        gain = gain + step_gain
        if step % 2 and bool(step_gain <= tolerance * gain):
            break
        preconditioned = precondition(residual)
        new_slope = (residual * preconditioned).sum()
        # The next direction is conjugate to the earlier ones: none of their gain is undone.
        direction = preconditioned + torch.where(slope > 0, new_slope / slope, 0.0) * direction
        slope = new_slope
    return list(solution.split(sizes))


def _sum_by_entry(linears: list[CodedLinear], codebooks: list[Tensor], of_error: bool) -> Tensor:
    """Collect ``s ⊙ (X H)`` per entry, X being ``W - Ŵ`` or ``Ŵ``: ``(all entries, d)``.

    With ``W - Ŵ`` this is half the negative gradient of the loss; with ``Ŵ``, the normal matrix
    applied to the given codebooks.
    """
    total = torch.zeros_like(torch.cat(codebooks), dtype=torch.float64)
    sizes = [len(codebook) for codebook in codebooks]
    for linear in linears:
        for rows in linear.row_tiles():
            scales = linear.code.scales[rows, None]
            decoded = linear.decode(codebooks, rows).mul_(scales)
            if of_error:
                decoded = linear.weight[rows] - decoded
            image = linear.coded(decoded @ linear.hessian.matrix)
            add_by_entry(total, image.mul_(scales * linear.importance), linear, rows, sizes)
    return total.float()


def add_by_entry(
    total: Tensor, values: Tensor, linear: CodedLinear, rows: slice, sizes: list[int]
) -> None:
    """Add each group's d values to its entries; in float64, as an entry sums many of them."""
    d, offset = linear.group_size, 0
    compiled = compiled_search_for(values.device)
    for codes, size in zip(linear.code.codes, sizes, strict=True):
        covered = values[:, : codes.shape[1] * d]
        part = total[offset : offset + size]
        if compiled is not None:
            compiled.add_by_entry(part, covered, codes[rows])
        else:
            part.index_add_(0, codes[rows].flatten(), covered.reshape(-1, d).double())
        offset += size


def _preconditioner(linears: list[CodedLinear], sizes: list[int]) -> Tensor:
    """Cholesky factors of each entry's own d x d block, ``(all entries, d, d)``.

    An entry's block of the normal matrix is ``Σ s_o² H_gg`` over all places (o, g) that use it:
    how often each group uses it (weighted by s²), times H's block of that group.
    """
    d = linears[0].group_size
    blocks = linears[0].weight.new_zeros(sum(sizes), d * d)
    for linear in linears:
        own = linear.diagonal_blocks().flatten(1)
        squares = linear.code.scales.square() * linear.importance
        offset = 0
        for codes, size in zip(linear.code.codes, sizes, strict=True):
            step = max(1, tile_elements(codes.device) // size)
            for start in range(0, codes.shape[1], step):
                part = codes[:, start : start + step]
                counts = _mass_by_entry(part, squares, size)
                blocks[offset : offset + size] += counts.T @ own[start : start + part.shape[1]]
            offset += size
    blocks = blocks.view(-1, d, d)
    trace = blocks.diagonal(dim1=1, dim2=2).mean(1)
    ridge = _OWN_RIDGE * trace + _TYPICAL_RIDGE * trace.mean() + torch.finfo(torch.float32).tiny
    blocks.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, failed = torch.linalg.cholesky_ex(blocks)
    # A block that rounding made indefinite is replaced by its diagonal: any preconditioner will do.
    diagonal = torch.diag_embed((blocks.diagonal(dim1=1, dim2=2) + ridge[:, None]).sqrt())
    return torch.where(failed[:, None, None] > 0, diagonal, factor)


def _mass_by_entry(codes: Tensor, squares: Tensor, size: int) -> Tensor:
    """``Σ_o s_o² [B_og = j]`` for groups g and entries j: ``(groups, entries)``."""
    groups = codes.shape[1]
    keys = codes + torch.arange(groups, device=codes.device) * size
    mass = torch.bincount(
        keys.flatten(),
        squares[:, None].expand(-1, groups).flatten(),
        minlength=groups * size,
    )
    return mass.view(groups, size).float()
