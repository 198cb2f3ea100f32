"""Code search by coordinate descent: one group after another, all rows at once.

Each step picks, for every row, the entry that lowers the exact loss most, given all other codes
(arXiv 2412.09282, section 3; AQLM, arXiv 2401.06118, section 3.2). ``P = (W - Ŵ) H`` is kept up to
date instead of being rebuilt: inside a block of columns at once, for the columns after it by one
large product a block, the way GPTQ batches its updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear, evenly_covered
from crvq.vq.kernels import compiled_search_for, fused_groups_for
from crvq.vq.nearest_codes import best_entries

BLOCK_COLUMNS = 128


def descend_codes(
    linear: CodedLinear,
    codebooks: list[Tensor],
    passes_over_critical: int = 2,
    block_columns: int = BLOCK_COLUMNS,
) -> Tensor:
    """Return one sweep over all groups; codes change in place and no row's loss goes up.

    Args:
        linear: whose codes are searched.
        codebooks: fixed.
        passes_over_critical: how often the codebooks of a group with several take turns.
        block_columns: columns between updates of the rest of P; changes rounding, nothing else.

    Returns:
        Each row's loss ``(w - ŵ) H (w - ŵ)ᵀ`` after the sweep, ``(out,)``; P makes it cheap.
    """
    loss = torch.empty_like(linear.code.scales)
    for rows in linear.row_tiles():
        # Unscaled: codes are compared with codebook entries, which have no scale.
        decoded = linear.code.decode(codebooks, rows)
        scales = linear.code.scales[rows, None]
        error = linear.weight[rows] - linear.natural(decoded * scales)
        residual_h = error @ linear.hessian.matrix
        descend_rows(
            linear, codebooks, rows, decoded, residual_h, passes_over_critical, block_columns
        )
        loss[rows] = ((linear.weight[rows] - linear.natural(decoded * scales)) * residual_h).sum(1)
    return loss


def descend_rows(
    linear: CodedLinear,
    codebooks: list[Tensor],
    rows: slice,
    decoded: Tensor,
    residual_h: Tensor,
    passes: int = 2,
    block_columns: int = BLOCK_COLUMNS,
) -> None:
    """One sweep over all groups of a tile of rows.

    Args:
        linear: whose codes are searched.
        codebooks: fixed.
        rows: the tile.
        decoded: unscaled decoded rows in coded order, ``(rows, in)``; kept up to date.
        residual_h: P, ``(rows, in)`` in natural order; kept up to date.
        passes: how often the codebooks of a group with several take turns.
        block_columns: columns between updates of the rest of P.
    """
    # Groups are visited in coded order: critical groups, with most at stake, choose first.
    groups = max(1, block_columns // linear.group_size)
    for first in range(0, linear.code.groups, groups):
        span = first, min(first + groups, linear.code.groups)
        _descend_block(linear, codebooks, rows, decoded, residual_h, span, passes)


def _descend_block(
    linear: CodedLinear,
    codebooks: list[Tensor],
    rows: slice,
    decoded: Tensor,
    residual_h: Tensor,
    span: tuple[int, int],
    passes: int,
) -> None:
    """Search the groups ``span`` of a tile of rows.

    Updates ``decoded`` (coded order) and ``residual_h`` (P, natural order).
    """
    d = linear.group_size
    scales = linear.code.scales[rows, None]
    low, high = span[0] * d, span[1] * d
    # The block's columns: a slice where channels lie in coded order, else gathered.
    members = slice(low, high) if linear.in_order else linear.order[low:high]
    # A copy, as P's columns outside the block get the block's changes all at once at the end.
    local = residual_h[:, members].clone(memory_format=torch.contiguous_format)
    h_rows = linear.hessian.matrix[members]
    local_h = h_rows[:, members].contiguous()
    fused = fused_groups_for(linear.weight.device, codebooks)
    if fused is None:
        fused = compiled_search_for(linear.weight.device)
    if fused is not None:
        change = torch.zeros_like(local)
        # A kernel handles groups with one and the same number of codebooks.
        for first, last in evenly_covered(linear, span):
            covering = [k for k, codes in enumerate(linear.code.codes) if first < codes.shape[1]]
            change += fused.descend_groups(
                local,
                decoded[:, low:high],
                [linear.code.codes[k][rows, first:last] for k in covering],
                linear.code.scales[rows],
                local_h,
                [codebooks[k] for k in covering],
                (first - span[0], last - span[0]),
                passes if len(covering) > 1 else 1,
            )
        residual_h.addmm_(change, h_rows, alpha=-1)
        return
    change = torch.zeros_like(local)
    for group in range(*span):
        here = slice(group * d - low, (group + 1) * d - low)
        metric = local_h[here, here]
        before = decoded[:, group * d : (group + 1) * d]
        # The loss as a function of this group's decoded value q is s² q M qᵀ - 2 s² t q + const.
        target = local[:, here] / scales + before @ metric
        after = _improve_group(linear, codebooks, rows, group, before, target, metric, passes)
        change[:, here] = (after - before) * scales
        # P follows the change within the block now, since the next groups look at it.
        decoded[:, group * d : (group + 1) * d] = after
        local -= change[:, here] @ local_h[here]
    residual_h.addmm_(change, h_rows, alpha=-1)


def _improve_group(
    linear: CodedLinear,
    codebooks: list[Tensor],
    rows: slice,
    group: int,
    value: Tensor,
    target: Tensor,
    metric: Tensor,
    passes: int,
) -> Tensor:
    """Let each codebook that covers ``group`` choose again in turn; the new decoded value."""
    covering = [k for k, codes in enumerate(linear.code.codes) if group < codes.shape[1]]
    # With one codebook the first choice is the best one; several depend on each other's choices.
    for _ in range(passes if len(covering) > 1 else 1):
        for k in covering:
            codes = linear.code.codes[k][rows, group]
            # What the other codebooks contribute stays; this one's best answer to it is exact.
            others = value - codebooks[k][codes]
            _, chosen = best_entries(target - others @ metric, metric, codebooks[k], 1)
            codes.copy_(chosen[:, 0])
            value = others + codebooks[k][codes]
    return value
