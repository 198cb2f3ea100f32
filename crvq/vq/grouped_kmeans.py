"""Weighted k-means on many sets of vectors at once, one codebook per set."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles


def mahalanobis_seeds(vectors: Tensor, weights: Tensor, entries: int) -> Tensor:
    """Starting centroids ``(sets, entries, d)``: evenly spread by Mahalanobis distance.

    Vectors of a set are sorted by distance from the set's mean in the metric of its covariance,
    and every n/entries-th is taken (GPTVQ, arXiv 2402.15319, section 3.2). With fewer vectors
    than entries some are taken twice. Vectors without weight (padding) are not taken.

    Args:
        vectors: ``(sets, n, d)``.
        weights: ``(sets, n, d)``; zero throughout for padding, which comes last in its set.
        entries: centroids of each set.
    """
    real = (weights > 0).any(2)
    count = real.sum(1).clamp_min(1)
    centered = vectors - (vectors * real[:, :, None]).sum(1, keepdim=True) / count[:, None, None]
    centered = centered * real[:, :, None]
    covariance = centered.mT @ centered / count[:, None, None]
    trace = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    identity = torch.eye(vectors.shape[2], device=vectors.device)
    damped = covariance + 1e-4 * trace[:, None, None] * identity
    distance = (torch.linalg.solve(damped, centered.mT).mT * centered).sum(2)
    ranked = torch.where(real, distance, torch.inf).argsort(dim=1, stable=True)
    # The middle of each of `entries` equal parts of the ranking.
    places = (torch.arange(entries, device=vectors.device) + 0.5) / entries * count[:, None]
    chosen = ranked.gather(1, places.long())
    return vectors.gather(1, chosen[:, :, None].expand(-1, -1, vectors.shape[2]))


def nearest_in_sets(vectors: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Each vector's centroid with the least ``Σ_a h_a (x_a - c_a)²``, ``(sets, n)``."""
    basis = torch.cat([centroids.square(), centroids], 2).mT
    scores = torch.cat([weights, -2 * weights * vectors], 2) @ basis
    return scores.argmin(2)


def grouped_kmeans(vectors: Tensor, weights: Tensor, entries: int, iterations: int) -> Tensor:
    """Centroids ``(sets, entries, d)`` by Lloyd's iterations from `mahalanobis_seeds`.

    The weighted EM of GPTVQ (arXiv 2402.15319, section 3.2, equations 5-6) with the diagonal of
    the error's metric. A centroid that loses all its vectors stays where it is.

    Args:
        vectors: ``(sets, n, d)``.
        weights: ``(sets, n, d)``, the cost of an error in each coordinate.
        entries: centroids of each set.
        iterations: of assignment and means.
    """
    sets, count, d = vectors.shape
    centroids = vectors.new_empty(sets, entries, d)
    for part in tiles(sets, count * max(entries, 2 * d), vectors.device):
        x, h = vectors[part], weights[part]
        current = mahalanobis_seeds(x, h, entries)
        offsets = torch.arange(len(x), device=x.device)[:, None] * entries
        for _ in range(iterations):
            slots = (nearest_in_sets(x, h, current) + offsets).flatten()
            mass = x.new_zeros(len(x) * entries, d).index_add_(0, slots, h.flatten(0, 1))
            mean = x.new_zeros(len(x) * entries, d).index_add_(0, slots, (h * x).flatten(0, 1))
            moved = mean / mass.clamp_min(1e-38)
            current = torch.where(mass > 0, moved, current.flatten(0, 1)).view_as(current)
        centroids[part] = current
    return centroids
