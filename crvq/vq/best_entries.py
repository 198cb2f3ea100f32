"""The codebook entries that serve targets best, without ever holding all scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles


def best_entries(
    targets: Tensor, metric: Tensor, codebook: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the ``count`` entries c with the least ``c M cᵀ - 2 t c`` for each target t.

    With ``t = x M`` this is ``‖x - c‖²_M`` less ``‖x‖²_M``, so scores compare across entries.

    Args:
        targets: ``(n, d)``.
        metric: M, ``(d, d)``, symmetric.
        codebook: ``(entries, d)``.
        count: entries kept; at most ``entries`` are.

    Returns:
        Scores and indices, each ``(n, min(count, entries))``, best first.
    """
    count = min(count, len(codebook))
    norms = ((codebook @ metric) * codebook).sum(1)
    transposed = codebook.T
    scores = targets.new_empty((len(targets), count))
    indices = torch.empty((len(targets), count), dtype=torch.int64, device=targets.device)
    for part in tiles(len(targets), len(codebook), targets.device):
        score = torch.addmm(norms, targets[part], transposed, alpha=-2)
        if count == 1:
            torch.min(score, 1, keepdim=True, out=(scores[part], indices[part]))
        else:
            torch.topk(score, count, dim=1, largest=False, out=(scores[part], indices[part]))
    return scores, indices
