"""Weighted k-means of the weights of each row by themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles


def row_kmeans(weight: Tensor, cost: Tensor, entries: int, iterations: int) -> Tensor:
    """Return values ``(out, entries)``, sorted, that lower ``Σ_j c_j (w_j - v)²`` in each row.

    Lloyd's iterations (SqueezeLLM, arXiv 2306.07629, section 4.1). They start at weighted
    quantiles, which need no random numbers; a value that loses all its weights stays where it is.
    In one dimension the weights of a value are an interval between midpoints of sorted values.

    Args:
        weight: ``(out, in)``.
        cost: c, ``(out, in)``, not negative; a row without any counts every weight alike.
        entries: values of each row.
        iterations: of assignment and means.
    """
    found = weight.new_empty(len(weight), entries)
    for part in tiles(len(weight), weight.shape[1] * 4, weight.device):
        values, order = weight[part].double().sort(1)
        c = cost[part].double().gather(1, order)
        c = torch.where(c.sum(1, keepdim=True) > 0, c, 1.0)
        found[part] = _lloyd(values, c, entries, iterations).to(weight.dtype)
    return found


def _lloyd(values: Tensor, cost: Tensor, entries: int, iterations: int) -> Tensor:
    """Alternate in rows that are sorted; sums over intervals are differences of running sums."""
    mass = torch.nn.functional.pad(cost.cumsum(1), (1, 0))
    # Sums of what a row's middle leaves, so that a large common part does not cancel.
    middle = values.mean(1, keepdim=True)
    moment = torch.nn.functional.pad((cost * (values - middle)).cumsum(1), (1, 0))
    levels = (torch.arange(entries, device=values.device) + 0.5) / entries
    wanted = (levels * mass[:, -1:]).contiguous()
    places = torch.searchsorted(mass[:, 1:].contiguous(), wanted).clamp_max(values.shape[1] - 1)
    current = values.gather(1, places)
    for _ in range(iterations):
        edges = (current[:, 1:] + current[:, :-1]) / 2
        cuts = torch.searchsorted(values, edges.contiguous())
        cuts = torch.nn.functional.pad(cuts, (1, 0))
        cuts = torch.nn.functional.pad(cuts, (0, 1), value=values.shape[1])
        weights = mass.gather(1, cuts).diff(dim=1)
        means = middle + moment.gather(1, cuts).diff(dim=1) / weights.clamp_min(1e-300)
        # An interval without cost is left alone; sorting keeps midpoints in order.
        moved = torch.where(weights > 0, means, current).sort(1).values
        if torch.equal(moved, current):
            break
        current = moved
    return current


def nearest_in_rows(weight: Tensor, tables: Tensor) -> Tensor:
    """Return the index of each weight's nearest value in its row's sorted table, ``(out, in)``."""
    edges = (tables[:, 1:] + tables[:, :-1]) / 2
    return torch.searchsorted(edges.contiguous(), weight.contiguous())
