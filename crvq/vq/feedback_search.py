"""Code search from scratch with error feedback and a beam.

Groups are coded in order; each code is chosen knowing that the columns still to come can compensate
its error, which H's inverse describes (GPTQ, arXiv 2210.17323, section 3; for vectors GPTVQ,
arXiv 2402.15319). With a beam, the best partial codes of every row are kept, which is K-best
search of a closest lattice point; a beam that keeps all of them finds the optimum of the damped
loss.

With ``H⁻¹ = Uᵀ U`` (U upper triangular), a row's loss is ``‖e U⁻¹‖²`` for its error e, and so a sum
over groups: group g adds ``‖(t_g - q_g) U_gg⁻¹‖²``, where ``t_g`` is what is left to code of its
columns after earlier groups' errors were passed on. Hence the metric ``U_gg⁻¹ U_gg⁻ᵀ`` of a
group's choice, and GPTQ's update of the columns after it, which lose
``(t_g - q_g) U_gg⁻¹ U_g,later``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from crvq.vq.additive_code import AdditiveCode, CodedLinear, evenly_covered
from crvq.vq.kernels import compiled_search_for, fused_groups_for
from crvq.vq.nearest_codes import best_entries
from crvq.vq.tiles import tiles

BLOCK_COLUMNS = 128
INNER_BEAM = 4
"""Choices kept between the codebooks of one group, whatever the beam between groups."""


@dataclass
class _Beam:
    """Partial codes of a tile of rows: the survivors after each group."""

    cost: Tensor
    """``(rows, width)``: what each survivor's columns so far cost, in units of s²."""
    parents: list[Tensor]
    """For each group coded, which earlier survivor each survivor extends: ``(rows, width)``."""
    choices: list[list[Tensor]]
    """For each group coded, the entries of the codebooks that cover it, in their order."""


def search_codes(
    linear: CodedLinear,
    codebooks: list[Tensor],
    beam: int = 1,
    block_columns: int = BLOCK_COLUMNS,
    into: AdditiveCode | None = None,
) -> AdditiveCode:
    """Codes for all rows, found again; scales stay as they are.

    Args:
        linear: its weight, Hessian and scales; its present codes only give the coverage.
        codebooks: fixed.
        beam: partial codes kept for each row.
        block_columns: columns between updates of the rest; changes rounding, nothing else.
        into: a code to overwrite (the present one may be given); None makes a new one.
    """
    empty = [torch.empty_like(c) for c in linear.code.codes] if into is None else into.codes
    code = AdditiveCode(empty, linear.code.scales)
    inverses = _diagonal_inverses(linear)
    for rows in tiles(linear.weight.shape[0], linear.weight.shape[1] * beam, linear.weight.device):
        survivors = _search_rows(linear, codebooks, rows, inverses, beam, block_columns)
        _trace_back(survivors, code, rows)
    return code


def _diagonal_inverses(linear: CodedLinear) -> Tensor:
    """``U_gg⁻¹`` for each group, ``(groups, d, d)``."""
    d, groups = linear.group_size, linear.code.groups
    factor = linear.feedback_factor.view(groups, d, groups, d)
    blocks = factor.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    identity = torch.eye(d, device=blocks.device).expand_as(blocks)
    return torch.linalg.solve_triangular(blocks, identity, upper=True)


def _search_rows(
    linear: CodedLinear,
    codebooks: list[Tensor],
    rows: slice,
    inverses: Tensor,
    beam: int,
    block_columns: int,
) -> _Beam:
    """Code a tile of rows, block of columns by block of columns; the survivors with their past."""
    d, factor = linear.group_size, linear.feedback_factor
    # What is left to code, as every survivor sees it, in units of the row's scale.
    left = (linear.weight[rows][:, linear.order] / linear.code.scales[rows, None])[:, None]
    survivors = _Beam(left.new_zeros(len(left), 1), [], [])
    step = max(1, block_columns // d)
    for first in range(0, linear.code.groups, step):
        last = min(first + step, linear.code.groups)
        low, high = first * d, last * d
        local = left[:, :, low:high].contiguous()
        # A GPU's kernel knows neither beams nor several codebooks: critical groups come first in
        # coded order, and blocks after the last of them are its.
        if beam == 1 and all(first >= covered for covered in linear.code.coverage()[1:]):
            fused = fused_groups_for(left.device, codebooks[:1])
            if fused is not None:
                errors = _search_fused(fused, linear, codebooks[0], survivors, local[:, 0],
                                       inverses[first:last], first)  # fmt: skip
                left[:, 0, high:] -= errors @ factor[low:high, high:]
                continue
        span, arguments = (first, last), (linear, codebooks, survivors, local, inverses, beam)
        compiled = compiled_search_for(left.device)
        search = _search_block if compiled is None else _search_compiled
        errors, origin = search(*arguments, span)
        if last < linear.code.groups:
            # As GPTQ does, columns beyond the block compensate its errors in one product.
            left = _inherit(left, origin)
            left[:, :, high:] -= errors @ factor[low:high, high:]
    return survivors


def _search_block(
    linear: CodedLinear,
    codebooks: list[Tensor],
    survivors: _Beam,
    local: Tensor,
    inverses: Tensor,
    beam: int,
    span: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Code the groups ``span``; ``local (rows, width, columns)`` is what they have left to code.

    Returns:
        The errors of the block's columns ``(rows, width, columns)``, and which survivor at its
        start each survivor at its end descends from ``(rows, width)``.
    """
    d, factor = linear.group_size, linear.feedback_factor
    low, high = span[0] * d, span[1] * d
    errors = torch.zeros_like(local)
    origin = torch.arange(local.shape[1], device=local.device).expand(len(local), -1)
    for group in range(*span):
        here = slice(group * d - low, (group + 1) * d - low)
        parent, value = _extend(linear, codebooks, survivors, local[:, :, here], group,
                                inverses[group], beam)  # fmt: skip
        # A survivor continues its parent: it has the parent's remaining columns and errors.
        local, errors = _inherit(local, parent), _inherit(errors, parent)
        origin = origin.gather(1, parent)
        error = (local[:, :, here] - value) @ inverses[group]
        errors[:, :, here] = error
        # The block's later columns compensate this error at once, as they are coded next.
        columns = slice(group * d, (group + 1) * d)
        local[:, :, here.stop :] -= error @ factor[columns, columns.stop : high]
    return errors, origin


def _search_compiled(
    linear: CodedLinear,
    codebooks: list[Tensor],
    survivors: _Beam,
    local: Tensor,
    inverses: Tensor,
    beam: int,
    span: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """As `_search_block`, by a compiled kernel."""
    from crvq.vq.compiled_search import BlockFeedback

    d = linear.group_size
    columns = slice(span[0] * d, span[1] * d)
    own = linear.feedback_factor[columns, columns]
    block = BlockFeedback(
        local, beam, max(beam, INNER_BEAM), inverses[slice(*span)], own, survivors.cost
    )
    for first, last in evenly_covered(linear, span):
        covering = [c for c, codes in zip(codebooks, linear.code.codes, strict=True)
                    if first < codes.shape[1]]  # fmt: skip
        parents, choices = block.extend(covering, (first - span[0], last - span[0]))
        survivors.parents.extend(parents)
        survivors.choices.extend(choices)
    errors, origin, survivors.cost = block.finish()
    return errors, origin


def _search_fused(
    fused: ModuleType,
    linear: CodedLinear,
    codebook: Tensor,
    survivors: _Beam,
    local: Tensor,
    inverses: Tensor,
    first: int,
) -> Tensor:
    """A block of groups under one codebook and a beam of one; its errors ``(rows, columns)``."""
    d = linear.group_size
    low, high = first * d, first * d + local.shape[1]
    codes = local.new_empty((len(local), len(inverses)), dtype=torch.int64)
    own = linear.feedback_factor[low:high, low:high].contiguous()
    errors = fused.feed_back_groups(local.contiguous(), codes, inverses, own, codebook)
    # One survivor extends itself: parents are zeros, and costs are never compared.
    survivors.parents.extend([torch.zeros_like(codes[:, :1])] * len(inverses))
    survivors.choices.extend([codes[:, group : group + 1]] for group in range(len(inverses)))
    return errors


def _extend(
    linear: CodedLinear,
    codebooks: list[Tensor],
    survivors: _Beam,
    target: Tensor,
    group: int,
    inverse: Tensor,
    beam: int,
) -> tuple[Tensor, Tensor]:
    """Extend each survivor by one group; the parents ``(rows, width)`` and values chosen.

    Codebooks that cover the group choose one after another, with a beam of their own that is
    cut to ``beam`` after the last: a later codebook may redeem an earlier one's second choice.
    """
    # ‖(t - q) U_gg⁻¹‖² is the squared distance of q to t in this metric.
    metric = inverse @ inverse.T
    covering = [k for k, codes in enumerate(linear.code.codes) if group < codes.shape[1]]
    inner = beam if len(covering) == 1 else max(beam, INNER_BEAM)
    cost = survivors.cost + ((target @ metric) * target).sum(2)
    parent = torch.arange(cost.shape[1], device=cost.device).expand(cost.shape)
    value = torch.zeros_like(target)
    chosen: list[Tensor] = []
    # Scores are relative to ‖x‖² of the residual before the choice, so costs add up exactly.
    for turn, k in enumerate(covering):
        width = beam if turn == len(covering) - 1 else inner
        # What the codebooks before have left of the target, for each of the present candidates.
        rest = _inherit(target, parent) - value
        scores, entries = best_entries((rest.flatten(0, 1) @ metric), metric, codebooks[k], width)
        # Extensions of all of a row's candidates compete with each other.
        candidates = cost[:, :, None] + scores.view(*cost.shape, -1)
        per_survivor = candidates.shape[2]
        cost, picked = candidates.flatten(1).topk(
            min(width, candidates[0].numel()), dim=1, largest=False
        )
        source = picked // per_survivor
        entry = entries.view(len(cost), -1).gather(1, picked)
        parent = parent.gather(1, source)
        value = _inherit(value, source) + codebooks[k][entry]
        chosen = [earlier.gather(1, source) for earlier in chosen] + [entry]
    survivors.cost = cost
    survivors.parents.append(parent)
    survivors.choices.append(chosen)
    return parent, value


def _inherit(state: Tensor, parent: Tensor) -> Tensor:
    """Rows of ``state (rows, old width, n)`` that each new survivor takes over."""
    if state.shape[1] == 1 and parent.shape[1] == 1:
        return state
    return state.gather(1, parent[:, :, None].expand(-1, -1, state.shape[2]))


def _trace_back(survivors: _Beam, code: AdditiveCode, rows: slice) -> None:
    """Write the best survivor's codes; survivors are sorted, so the best is the first."""
    position = torch.zeros_like(survivors.parents[-1][:, :1])
    for group in range(code.groups - 1, -1, -1):
        covering = [codes for codes in code.codes if group < codes.shape[1]]
        for codes, entries in zip(covering, survivors.choices[group], strict=True):
            codes[rows, group] = entries.gather(1, position)[:, 0]
        position = survivors.parents[group].gather(1, position)
