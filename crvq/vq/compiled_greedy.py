"""The greedy order of `crvq.vq.greedy_rounding` on a CPU, a row at a time (numba)."""

# Numba's arguments are arrays whose types are inferred.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import numpy as np

from crvq.vq.compiled_groups import compiled


@compiled()
def round_rows(weight, inverse, steps, zeros, levels, clipped, costly_first, first, last, codes):
    """Round rows ``first`` to ``last``; weights still to come are kept side by side, in front."""
    count = weight.shape[1]
    vectors = np.empty((count, count), dtype=np.float32)
    left, pivots = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.float32)
    vector, place = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.int64)
    for row in range(first, last):
        for j in range(count):
            left[j], pivots[j], place[j] = weight[row, j], inverse[j, j], j
        for step in range(count):
            open_ = count - step
            least, farthest, chosen, off = np.float32(np.inf), np.float32(clipped), 0, -1
            for j in range(open_):
                at = place[j]
                size, zero = steps[row, at], zeros[row, at]
                if costly_first:
                    if -(size * size) / pivots[j] < least:
                        least, chosen = -(size * size) / pivots[j], j
                    continue
                code = min(max(np.rint(left[j] / size) + zero, 0), levels - 1)
                error = left[j] - np.float32(code - zero) * size
                if error * error / pivots[j] < least:
                    least, chosen = error * error / pivots[j], j
                if error * error / (size * size) > farthest:
                    farthest, off = error * error / (size * size), j
            if off >= 0:
                chosen = off
            at = place[chosen]
            size, zero = steps[row, at], zeros[row, at]
            code = min(max(np.rint(left[chosen] / size) + zero, 0), levels - 1)
            codes[row, at] = np.int64(code)
            error = left[chosen] - np.float32(code - zero) * size
            root = np.sqrt(pivots[chosen])
            for j in range(open_):
                vector[j] = inverse[at, place[j]]
            for past in range(step):
                factor, old = vectors[past, chosen], vectors[past]
                for j in range(open_):
                    vector[j] -= factor * old[j]
            for j in range(open_):
                vector[j] /= root
                left[j] -= error / root * vector[j]
                pivots[j] = max(pivots[j] - vector[j] * vector[j], np.float32(1e-38))
            # The last open weight takes the place of the one that is done.
            end = open_ - 1
            vectors[step, :open_] = vector[:open_]
            left[chosen], pivots[chosen], place[chosen] = left[end], pivots[end], place[end]
            for past in range(step + 1):
                vectors[past, chosen] = vectors[past, end]
