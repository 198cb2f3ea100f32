"""Weighted Lloyd iterations on a sample of sub-vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.compiled import compiled_search_for
from crvq.vq.tiles import tiles

# A lost centroid's new place is sought among so many vectors per entry.
_REFILL_FROM = 16


def nearest_centroids(vectors: Tensor, weights: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centroid c with the least ``Σ_a h_a (x_a - c_a)²`` for each vector.

    Args:
        vectors: ``(n, d)``.
        weights: ``(n, d)``, not negative.
        centroids: ``(entries, d)``.

    Returns:
        Indices ``(n,)`` and the weighted squared distances ``(n,)``.
    """
    return _nearest(_terms(vectors, weights), centroids)


def _terms(vectors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return what of the distances ``Σ_a h_a (x_a - c_a)²`` does not depend on the centroids.

    ``h_a`` and ``-2 h_a x_a``, the factors of ``c_a²`` and ``c_a``, ``(n, 2 d)``; and
    ``Σ_a h_a x_a²``, ``(n,)``.
    """
    # Each vector has its own weights h, so distances are no plain norms; but they are linear in
    # (c², c), and one matrix product gives the scores of all centroids.
    factors = torch.cat([weights, -2 * weights * vectors], 1)
    return factors, (weights * vectors.square()).sum(1)


def _nearest(terms: tuple[Tensor, Tensor], centroids: Tensor) -> tuple[Tensor, Tensor]:
    factors, own = terms
    indices = torch.empty(len(factors), dtype=torch.int64, device=factors.device)
    distances = torch.empty_like(own)
    basis = torch.cat([centroids.square(), centroids], 1).T.contiguous()
    compiled = compiled_search_for(factors.device)
    # The kernel holds no scores, so it needs no tiles.
    width = len(centroids) if compiled is None else 1
    for part in tiles(len(factors), width, factors.device):
        if compiled is None:
            least, indices[part] = (factors[part] @ basis).min(1)
        else:
            indices[part], least = compiled.nearest_rows(factors[part], basis)
        distances[part] = least + own[part]
    # The expanded square may come out slightly negative in float32.
    return indices, distances.clamp_min_(0)


def kmeans(
    vectors: Tensor,
    weights: Tensor,
    entries: int,
    iterations: int,
    generator: torch.Generator,
    sample: int = 1 << 16,
) -> Tensor:
    """Return ``(min(entries, n), d)`` centroids by Lloyd's iterations on a sample of the vectors.

    Starts from distinct vectors drawn at random; a centroid that loses all its vectors moves to
    the vector that is worst served. With as many entries as vectors, the vectors themselves are
    returned.

    Args:
        vectors: ``(n, d)``.
        weights: ``(n, d)``, the cost of an error in each coordinate.
        entries: number of centroids asked for.
        iterations: Lloyd iterations.
        generator: a CPU generator; the same seed gives the same centroids.
        sample: the number of vectors looked at.
    """
    count = len(vectors)
    if entries >= count:
        return vectors.clone()
    sample = max(sample, 4 * entries)
    drawn = torch.randperm(count, generator=generator)[: min(sample, count)].to(vectors.device)
    # A weight of zero would leave a centroid's mean undefined where only dead channels vote.
    x, h = vectors[drawn], weights[drawn].clamp_min(torch.finfo(torch.float32).tiny)
    centroids, terms, weighted = x[:entries].clone(), _terms(x, h), h * x
    for _ in range(iterations):
        indices, distances = _nearest(terms, centroids)
        # The weighted mean minimizes the weighted distances coordinate by coordinate.
        mass = torch.zeros_like(centroids).index_add_(0, indices, h)
        mean = torch.zeros_like(centroids).index_add_(0, indices, weighted)
        empty = torch.bincount(indices, minlength=entries) == 0
        centroids = torch.where(empty[:, None], centroids, mean / mass.clamp_min(1e-38))
        lost = empty.nonzero()[:, 0]
        if len(lost):
            # Among the first vectors only: they are a random draw, and topk over all is slow.
            looked_at = distances[: _REFILL_FROM * entries]
            centroids[lost] = x[looked_at.topk(len(lost)).indices]
    return centroids
