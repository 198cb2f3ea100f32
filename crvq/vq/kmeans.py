"""k-means: weighted, for many groups at once, and in one dimension for the rows of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.kernels import compiled_search_for
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
        # In one dimension clusters are intervals, so sums are differences of running sums.
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
