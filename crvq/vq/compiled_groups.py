"""Code search on a CPU in compiled kernels: a row at a time through all groups of a block (numba).

The torch search takes all rows through one group after another, and so writes a matrix of scores
``(rows, entries)`` to memory and reads it back for every group. Here a row's scores stay in
registers, and a row that keeps its code costs no update of the columns after it. Both add products
in the same order, from the first coordinate to the last, and round where matrix libraries do, so
that they choose the same codes.

Kernels release Python's lock and treat each row by itself: `crvq.vq.kernels.over_rows` cuts rows
into parts, and results do not depend on how many threads there are. Machine code is kept in
``__pycache__`` or, where that cannot be written, in the user's cache folder (numba's rule;
``NUMBA_CACHE_DIR`` overrides it), for each type of processor its own.
"""

# Arguments of kernels are arrays and scalars; the signatures give their types.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from crvq.vq.compiled_vectors import (
    LANES,
    add_4,
    add_8,
    add_any,
    least_of_0,
    least_of_4,
    least_of_8,
    least_of_16,
    least_of_any,
)

_INF = np.float32(np.inf)
_SMALL = 8
"""Up to so many columns torch's matrix product sums in another order; see `_times_by_halves`."""


def compiled(signature: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel and keep it on disk; where nothing can be written, compile in each run."""
    compiler: Any = njit
    arguments = () if signature is None else (signature,)

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - numba's dispatcher
        try:
            return compiler(*arguments, nogil=True, error_model="numpy", cache=True)(function)
        except (RuntimeError, OSError):
            return compiler(*arguments, nogil=True, error_model="numpy")(function)

    return decorate


@compiled()
def _least(base, x, table):
    """The entry e with the least ``base[e] + Σ_k x[k] table[k, e]``, and that value."""
    if len(x) == 4:
        return least_of_4(base, x, table, 0)
    if len(x) == 8:
        return least_of_8(base, x, table, 0)
    return least_of_any(base, x, table, 0)


@compiled()
def _add(base, x, table, first_row, start, out):
    """``out[e] = base[e] + Σ_k x[k] table[first_row + k, e]`` for e from ``start`` on."""
    if len(x) == 4:
        add_4(base, x, table, first_row, start, out)
    elif len(x) == 8:
        add_8(base, x, table, first_row, start, out)
    else:
        add_any(base, x, table, first_row, start, out)


@compiled()
def _inherit(state, parent, width, room):
    """Let each of ``width`` new survivors take over the state ``(beam, n)`` of its parent."""
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            room[i, j] = state[i, j]
    for i in range(width):
        for j in range(state.shape[1]):
            state[i, j] = room[parent[0, i], j]


@compiled()
def _times(x, matrix, column):
    """``Σ_k x[k] matrix[k, column]``, in order of k; rounded after each product and each sum.

    As torch's matrix product does it for matrices as small as d x d.
    """
    total = x[0] * matrix[0, column]
    for k in range(1, len(x)):
        total += x[k] * matrix[k, column]
    return total


@compiled()
def _times_by_halves(x, matrix, column, room):
    """``Σ_k x[k] matrix[k, column]``; the second half is added to the first until one is left.

    As torch's matrix product does it for small matrices that are stored transposed.
    """
    left = len(x)
    for k in range(left):
        room[k] = x[k] * matrix[k, column]
    while left > 1 and left % 2 == 0:
        left //= 2
        for k in range(left):
            room[k] += room[left + k]
    total = room[0]
    for k in range(1, left):
        total += room[k]
    return total


@compiled()
def _add_after(left, x, table, low, columns, room):
    """Add ``Σ_k x[k] table[low + k]`` to the columns after ``low + len(x)``."""
    first = low + len(x)
    if columns - first > _SMALL:
        _add(left, x, table, low, first // LANES * LANES, left)
        return
    for column in range(first, columns):
        block, lane = table[column // LANES], column % LANES
        left[column] += _times_by_halves(x, block[low : low + len(x)], lane, room)


@compiled(
    "(float32[:, ::1], float32[:, :, ::1], float32[::1], int64, int64, int64[::1], float32[::1])"
)
def nearest(x, table, base, first, last, indices, least):
    """For rows ``first`` to ``last``: the entry e with the least ``base[e] + x · table[:, e]``.

    Args:
        x: ``(rows, k)``.
        table: ``(k, entries)`` in blocks.
        base: ``(entries,)``, infinite for padding.
        first: row to begin with.
        last: row to end before.
        indices: ``(rows,)``, written; the first of equal entries.
        least: ``(rows,)``, written.
    """
    for row in range(first, last):
        # Weighted distances between vectors of length 8 have 16 terms.
        if x.shape[1] == 16:
            indices[row], least[row] = least_of_16(base, x[row], table, 0)
        else:
            indices[row], least[row] = _least(base, x[row], table)


@compiled("(float64[:, ::1], float32[:, :], int64[:, :])")
def add_by_entry(total, values, codes):
    """Add each group's values to its entry, ``total[codes[r, g]] += values[r, g * d : ...]``.

    Rows follow one another, as sums depend on the order; the compiled loop is short.
    """
    d = total.shape[1]
    for row in range(codes.shape[0]):
        for group in range(codes.shape[1]):
            entry = codes[row, group]
            for k in range(d):
                total[entry, k] += values[row, group * d + k]


@compiled(
    "(float32[:, ::1], float32[:, :], int64[:, :, :], float32[:, ::1], float32[:],"
    " float32[:, :, ::1], float32[:, :, ::1], float32[:, :, :, ::1], float32[:, :, ::1],"
    " float32[:, :, ::1], int64, int64, int64, int64)"
)
def descend(
    residual_h, decoded, codes, change, scales, h, metrics, tables, entries, norms,
    first_group, passes, first, last,
):  # fmt: skip
    """Let every codebook choose again for the groups of a block; see `descend_codes`.

    Args:
        residual_h: ``(W - Ŵ) H`` at the block's columns, ``(rows, columns)``, padded to a multiple
            of 16; kept up to date for the columns still to come.
        decoded: unscaled decoded weights at the block's columns, ``(rows, columns)``; changed.
        codes: ``(codebooks, rows, groups)``; changed.
        change: what is added to Ŵ, ``(rows, columns)``; written where it is not zero.
        scales: ``(rows,)``.
        h: H at the block's columns, in blocks.
        metrics: H's d x d block of each group, ``(groups, d, d)``.
        tables: codebooks transposed, in blocks, ``(codebooks, entries / 16, d, 16)``.
        entries: codebooks, ``(codebooks, entries, d)``.
        norms: ``c M cᵀ``, ``(codebooks, groups, entries)``; infinite for padding.
        first_group: where ``codes`` begins, counted in the block's groups.
        passes: how often the codebooks take turns.
        first: row to begin with.
        last: row to end before.
    """
    d = metrics.shape[1]
    before, value = np.empty(d, np.float32), np.empty(d, np.float32)
    target, pulled = np.empty(d, np.float32), np.empty(d, np.float32)
    for row in range(first, last):
        scale = scales[row]
        for group in range(codes.shape[2]):
            low, metric = (first_group + group) * d, metrics[first_group + group]
            for j in range(d):
                before[j] = value[j] = decoded[row, low + j]
            # The loss as a function of this group's decoded value q is s² q M qᵀ - 2 s² t q + c.
            for j in range(d):
                target[j] = residual_h[row, low + j] / scale + _times(before, metric, j)
            for _ in range(passes):
                for k in range(codes.shape[0]):
                    for j in range(d):
                        # What the other codebooks say of this group.
                        value[j] -= entries[k, codes[k, row, group], j]
                    for j in range(d):
                        pulled[j] = np.float32(-2.0) * (target[j] - _times(value, metric, j))
                    chosen, _ = _least(norms[k, first_group + group], pulled, tables[k])
                    codes[k, row, group] = chosen
                    for j in range(d):
                        value[j] += entries[k, chosen, j]
            changed = False
            for j in range(d):
                step = (value[j] - before[j]) * scale
                changed |= step != 0
                decoded[row, low + j] = value[j]
                change[row, low + j] = step
                pulled[j] = -step
            if changed:
                # Columns before this group are not looked at again in this sweep.
                start = (low + d) // LANES * LANES
                _add(residual_h[row], pulled, h, low, start, residual_h[row])


@compiled()
def _extend(
    target, cost, survivors, metric, tables, entries, norms, sizes, beam, inner,
    x, pulled, parent, value, chosen, candidates, costs, scores,
):  # fmt: skip
    """Extend one row's survivors by one group; returns how many there are then.

    The codebooks choose one after another. `feedback_search._extend` is the same in torch.

    Args:
        target: what each survivor has left to code of this group, ``(beam, d)``.
        cost: of each survivor, ``(widest,)``; kept up to date.
        survivors: how many there are.
        metric: ``U_gg⁻¹ U_gg⁻ᵀ``.
        tables: as in `feed_back`.
        entries: as in `feed_back`.
        norms: of this group, ``(codebooks, entries)``.
        sizes: as in `feed_back`.
        beam: survivors kept after the last codebook.
        inner: survivors kept between codebooks.
        x: room for d numbers.
        pulled: room for d numbers.
        parent: ``(2, widest)``; the first half says which survivor each new one extends.
        value: ``(2, widest, d)``; the first half holds the new survivors' decoded values.
        chosen: ``(2, widest, codebooks)``; the first half holds their entries.
        candidates: room for ``widest²`` entries.
        costs: room for as many costs.
        scores: room for a score of each entry.
    """
    d = len(metric)
    for i in range(survivors):
        own = np.float32(0.0)
        for j in range(d):
            own += _times(target[i], metric, j) * target[i, j]
        cost[i] += own
        parent[0, i] = i
        for j in range(d):
            value[0, i, j] = 0.0
    for k in range(len(sizes)):
        wanted = beam if k == len(sizes) - 1 else inner
        count = min(wanted, sizes[k])
        for i in range(survivors):
            # Scores are relative to ‖x‖² of the residual before the choice, so costs add up.
            for j in range(d):
                x[j] = target[parent[0, i], j] - value[0, i, j]
            for j in range(d):
                pulled[j] = np.float32(-2.0) * _times(x, metric, j)
            if count == 1:
                candidates[i], least = _least(norms[k], pulled, tables[k])
                costs[i] = cost[i] + least
                continue
            _add(norms[k], pulled, tables[k], 0, 0, scores)
            for c in range(i * count, (i + 1) * count):
                candidates[c], least = least_of_0(scores, scores, tables[k], 0)
                scores[candidates[c]] = _INF
                costs[c] = cost[i] + least
        # The new survivors are built from the old ones, which move to the second halves.
        for i in range(survivors):
            parent[1, i] = parent[0, i]
            for j in range(d):
                value[1, i, j] = value[0, i, j]
            for turn in range(k):
                chosen[1, i, turn] = chosen[0, i, turn]
        kept = min(wanted, survivors * count)
        for i in range(kept):
            best = 0
            for candidate in range(1, survivors * count):
                if costs[candidate] < costs[best]:
                    best = candidate
            source, entry = best // count, candidates[best]
            cost[i] = costs[best]
            costs[best] = _INF
            parent[0, i], chosen[0, i, k] = parent[1, source], entry
            for turn in range(k):
                chosen[0, i, turn] = chosen[1, source, turn]
            for j in range(d):
                value[0, i, j] = value[1, source, j] + entries[k, entry, j]
        survivors = kept
    return survivors


@compiled(
    "int64(float32[:, :, ::1], float32[:, :, ::1], float32[:, ::1], int64[:, ::1],"
    " int64[:, :, ::1], int64[:, :, :, ::1], float32[:, :, ::1], float32[:, :, ::1],"
    " float32[:, :, ::1], float32[:, :, :, ::1], float32[:, :, ::1], float32[:, :, ::1],"
    " int64[::1], int64, int64, int64, int64, int64, int64)"
)
def feed_back(
    left, errors, cost, origin, parents, choices, factor, inverses, metrics, tables, entries,
    norms, sizes, first_group, survivors, beam, inner, first, last,
):  # fmt: skip
    """Code the groups of a block, each row's survivors by themselves; see `search_codes`.

    Args:
        left: what is left to code at the block's columns, ``(rows, beam, columns)``, padded to a
            multiple of 16; kept up to date for the columns still to come.
        errors: of the groups coded, ``(rows, beam, columns)``; written.
        cost: of the survivors, ``(rows, beam)``; kept up to date.
        origin: which survivor at the block's start each one descends from, ``(rows, beam)``.
        parents: ``(groups, rows, beam)``; written.
        choices: ``(groups, codebooks, rows, beam)``; written.
        factor: U at the block's columns, in blocks.
        inverses: ``U_gg⁻¹``, ``(groups, d, d)``.
        metrics: ``U_gg⁻¹ U_gg⁻ᵀ``, ``(groups, d, d)``.
        tables: as in `descend`.
        entries: as in `descend`.
        norms: as in `descend`.
        sizes: entries of each codebook without padding.
        first_group: where ``parents`` begins, counted in the block's groups.
        survivors: of each row at first.
        beam: survivors kept after each group.
        inner: survivors kept between the codebooks of a group.
        first: row to begin with.
        last: row to end before.

    Returns:
        Survivors of each row at the end.
    """
    groups, d, widest = parents.shape[0], metrics.shape[1], max(beam, inner)
    columns = len(inverses) * d
    parent, value = np.empty((2, widest), np.int64), np.empty((2, widest, d), np.float32)
    chosen = np.empty((2, widest, len(sizes)), np.int64)
    candidates = np.empty(widest * widest, np.int64)
    costs, scores = np.empty(widest * widest, np.float32), np.empty(norms.shape[2], np.float32)
    own_cost, error = np.empty(widest, np.float32), np.empty(d, np.float32)
    x, room = np.empty(d, np.float32), np.empty(left.shape[1:], np.float32)
    own_origin = np.empty(beam, np.int64)
    width = survivors
    for row in range(first, last):
        width = survivors
        for i in range(width):
            own_cost[i] = cost[row, i]
        for group in range(groups):
            at = first_group + group
            low, inverse = at * d, inverses[at]
            width = _extend(
                left[row, :, low : low + d], own_cost, width, metrics[at], tables, entries,
                norms[:, at], sizes, beam, inner, x, error, parent, value, chosen, candidates,
                costs, scores,
            )  # fmt: skip
            if beam > 1:
                _inherit(left[row], parent, width, room)
                _inherit(errors[row], parent, width, room)
                for i in range(beam):
                    own_origin[i] = origin[row, i]
                for i in range(width):
                    origin[row, i] = own_origin[parent[0, i]]
            for i in range(width):
                parents[group, row, i] = parent[0, i]
                for k in range(len(sizes)):
                    choices[group, k, row, i] = chosen[0, i, k]
                for j in range(d):
                    error[j] = left[row, i, low + j] - value[0, i, j]
                for j in range(d):
                    value[0, i, j] = _times_by_halves(error, inverse, j, x)
                for j in range(d):
                    errors[row, i, low + j] = value[0, i, j]
                    error[j] = -value[0, i, j]
                _add_after(left[row, i], error, factor, low, columns, x)
        for i in range(width):
            cost[row, i] = own_cost[i]
    return width
