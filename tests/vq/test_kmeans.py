"""Weighted k-means against its definition and against scipy's."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans as scipy_kmeans

from crvq.vq import kmeans as module
from crvq.vq import tiles
from crvq.vq.kmeans import kmeans, nearest_centroids


def cloud(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=generator),
        torch.rand(n, d, generator=generator) + 0.1,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(vectors, weights, centroids):
    error = vectors.double()[:, None] - centroids.double()[None]
    return float((weights.double()[:, None] * error.square()).sum(2).min(1).values.sum())


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 30), d=st.integers(1, 6), entries=st.integers(1, 20), seed=st.integers(0, 99)
)
def test_nearest_centroid_equals_brute_force(n, d, entries, seed):
    x, h = cloud(n, d, seed)
    centroids, _ = cloud(entries, d, seed + 1)
    indices, distances = nearest_centroids(x, h, centroids)
    error = x.double()[:, None] - centroids.double()[None]
    wanted = (h.double()[:, None] * error.square()).sum(2)
    least = wanted.min(1).values
    torch.testing.assert_close(distances.double(), least, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        wanted.gather(1, indices[:, None])[:, 0], least, rtol=1e-4, atol=1e-4
    )


def test_tiny_tiles_find_the_same_neighbours(monkeypatch):
    x, h = cloud(40, 3)
    whole = nearest_centroids(x, h, x[:7])
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 10)
    tiled = nearest_centroids(x, h, x[:7])
    assert torch.equal(whole[0], tiled[0])
    torch.testing.assert_close(whole[1], tiled[1])


@pytest.mark.parametrize("entries", [12, 300])
def test_as_many_entries_as_vectors_returns_the_vectors(entries):
    x, h = cloud(12, 3)
    centroids = kmeans(x, h, entries, 5, seeded())
    assert torch.equal(centroids, x)
    assert centroids.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
def test_no_iteration_raises_the_objective(weighted):
    x, h = cloud(400, 3)
    h = h if weighted else torch.ones_like(h)
    course = [objective(x, h, kmeans(x, h, 16, n, seeded())) for n in range(12)]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(course))
    assert course[-1] < 0.8 * course[0]


def test_converged_centroids_are_the_weighted_means_of_their_vectors():
    x, h = cloud(200, 2)
    centroids = kmeans(x, h, 6, 200, seeded())
    indices, _ = nearest_centroids(x, h, centroids)
    for entry in range(6):
        mine = indices == entry
        mean = np.average(x[mine].numpy(), axis=0, weights=h[mine].numpy())
        np.testing.assert_allclose(centroids[entry].numpy(), mean, rtol=1e-4, atol=1e-5)


def test_equals_scipy_from_the_same_start():
    x, _ = cloud(300, 3)
    even = torch.ones_like(x)
    start = kmeans(x, even, 5, 0, seeded())
    ours = kmeans(x, even, 5, 300, seeded())
    theirs, _ = scipy_kmeans(x.double().numpy(), start.double().numpy(), thresh=1e-12)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4)


def test_same_seed_same_centroids_and_another_seed_others():
    x, h = cloud(500, 4)
    first = kmeans(x, h, 8, 3, seeded(1), sample=100)
    assert torch.equal(first, kmeans(x, h, 8, 3, seeded(1), sample=100))
    assert not torch.equal(first, kmeans(x, h, 8, 3, seeded(2), sample=100))


def test_centroids_without_vectors_move_to_the_worst_served():
    # Ten copies of one vector and a few apart: distinct draws by position are copies mostly, and
    # ties leave all but one of them empty.
    x = torch.cat([torch.zeros(60, 2), 10 * torch.eye(2), -10 * torch.eye(2)])
    h = torch.ones_like(x)
    for seed in range(5):
        centroids = kmeans(x, h, 5, 6, seeded(seed))
        assert objective(x, h, centroids) == pytest.approx(0, abs=1e-6)


def test_only_a_sample_is_looked_at(monkeypatch):
    x, h = cloud(1000, 2)
    seen = []
    real = module._nearest

    def spy(terms, centroids):
        seen.append(len(terms[1]))
        return real(terms, centroids)

    monkeypatch.setattr(module, "_nearest", spy)
    kmeans(x, h, 4, 2, seeded(), sample=50)
    kmeans(x, h, 20, 1, seeded(), sample=50)
    assert seen == [50, 50, 80], "the sample, or four vectors an entry"


def test_vectors_of_no_weight_do_no_harm():
    x, h = cloud(100, 3)
    centroids = kmeans(x, torch.zeros_like(h), 8, 4, seeded())
    assert bool(torch.isfinite(centroids).all())
    h[50:] = 0
    x[50:] += 100.0
    centroids = kmeans(x, h, 8, 20, seeded())
    assert objective(x[:50], h[:50], centroids) < objective(x[:50], h[:50], x[:50].mean(0)[None])
