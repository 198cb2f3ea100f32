"""Which channels are critical, and in which order channels are coded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crvq.vq.choices import ReorderPolicy, RoundingPolicy


def critical_groups(in_features: int, group_size: int, ratio: float, policy: RoundingPolicy) -> int:
    """Return how many whole groups of ``group_size`` channels a critical ratio λ comes to.

    ``floor`` is the authors' code (0 groups whenever λ·in < d); ``at_least_one`` is the same with
    a floor of one group for any λ above zero; ``nearest`` and ``ceil`` say what they do.
    """
    # λ·in is often a whole number that float division misses by an ulp (0.29 * 100 = 28.999…).
    exact = round(ratio * in_features / group_size, 9)
    rounded = {
        "floor": math.floor(exact),
        "at_least_one": max(math.floor(exact), 1 if ratio > 0 else 0),
        "nearest": math.floor(exact + 0.5),
        "ceil": math.ceil(exact),
    }[policy]
    # λ up to 1 covers the last, padded group as well.
    return min(rounded, math.ceil(in_features / group_size))


def channel_order(
    importance: Tensor, energy: Tensor, group_size: int, critical: int, policy: ReorderPolicy
) -> Tensor:
    """Return the permutation π, ``(in,)``: position p of the coded weight holds channel π[p].

    The first ``critical * group_size`` positions hold the most important channels in every
    policy but ``none``, which codes channels where they lie (and then nothing may be critical).
    The others are laid out

    - ``sorted``: by importance, descending, so that a group holds channels of similar importance
      (arXiv 2412.09282, section 3, step 2);
    - ``critical_first``: in their natural order, which costs no bits to store;
    - ``stratified``: dealt by descending ``energy``, so that every group gets one channel of
      each stratum, and coordinate a of every group has the a-th largest energy. All groups then
      carry the same load, and the codebook spends its resolution on the coordinates that matter.

    Args:
        importance: ``(in,)``; ``in`` is a multiple of ``group_size``.
        energy: ``(in,)``, what an error of a channel's typical weight costs.
        group_size: d.
        critical: number of critical groups.
        policy: as above.

    Raises:
        ValueError: ``none`` together with critical groups.
    """
    if policy == "none":
        if critical:
            raise ValueError("reorder 'none' cannot have critical groups")
        return torch.arange(len(importance), device=importance.device)
    # Stable, so that equal importances (dead channels) give one order on every device.
    ranked = importance.argsort(descending=True, stable=True)
    if policy == "sorted":
        return ranked
    chosen = ranked[: critical * group_size]
    rest = torch.ones_like(importance, dtype=torch.bool)
    rest[chosen] = False
    others = rest.nonzero()[:, 0]
    if policy == "stratified":
        # Deal the ranked channels out: rows of the view are strata, its columns become groups.
        by_energy = others[energy[others].argsort(descending=True, stable=True)]
        others = by_energy.view(group_size, -1).T.flatten()
    return torch.cat([chosen, others])
