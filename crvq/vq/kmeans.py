"""Weighted Lloyd iterations on a sample of sub-vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.compiled import compiled_search_for
from crvq.vq.tiles import tiles

# A lost centroid's new place is sought among so many vectors an entry.
_REFILL_FROM = 16


def nearest_centroids(vectors: Tensor, weights: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The centroid c with the least ``Σ_a h_a (x_a - c_a)²`` for each vector.

    Args:
        vectors: ``(n, d)``.
        weights: ``(n, d)``, not negative.
        centroids: ``(entries, d)``.

    Returns:
        Indices ``(n,)`` and the weighted squared distances ``(n,)``.
    """
    indices = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    distances = torch.empty(len(vectors), dtype=vectors.dtype, device=vectors.device)
    basis = torch.cat([centroids.square(), centroids], 1).T.contiguous()
    compiled = compiled_search_for(vectors.device)
    for part in tiles(len(vectors), len(centroids), vectors.device):
        x, h = vectors[part], weights[part]
        terms = torch.cat([h, -2 * h * x], 1)
        if compiled is None:
            least, indices[part] = (terms @ basis).min(1)
        else:
            indices[part], least = compiled.nearest_rows(terms, basis)
        distances[part] = least + (h * x.square()).sum(1)
    return indices, distances.clamp_min_(0)


def kmeans(
    vectors: Tensor,
    weights: Tensor,
    entries: int,
    iterations: int,
    generator: torch.Generator,
    sample: int = 1 << 16,
) -> Tensor:
    """Centroids ``(min(entries, n), d)`` by Lloyd's iterations on at most ``sample`` vectors.

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
    x, h = vectors[drawn], weights[drawn].clamp_min(torch.finfo(torch.float32).tiny)
    centroids = x[:entries].clone()
    for _ in range(iterations):
        indices, distances = nearest_centroids(x, h, centroids)
        mass = torch.zeros_like(centroids).index_add_(0, indices, h)
        mean = torch.zeros_like(centroids).index_add_(0, indices, h * x)
        empty = torch.bincount(indices, minlength=entries) == 0
        centroids = torch.where(empty[:, None], centroids, mean / mass.clamp_min(1e-38))
        lost = empty.nonzero()[:, 0]
        if len(lost):
            # Among the first vectors only: they are a random draw, and topk over all is slow.
            looked_at = distances[: _REFILL_FROM * entries]
            centroids[lost] = x[looked_at.topk(len(lost)).indices]
    return centroids
