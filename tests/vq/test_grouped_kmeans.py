import torch

from crvq.vq import tiles
from crvq.vq.kmeans import grouped_kmeans, mahalanobis_seeds, nearest_in_sets


def vectors(sets=3, count=40, d=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(sets, count, d, generator=draw),
        0.1 + torch.rand(sets, count, d, generator=draw),
    )


def cost(x, h, centroids):
    """By brute force in float64, all pairs."""
    gap = x.double()[:, :, None] - centroids.double()[:, None]
    return (gap.square() * h.double()[:, :, None]).sum(3)


def test_the_nearest_is_the_nearest_of_all():
    x, h = vectors()
    centroids = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nearest_in_sets(x, h, centroids), cost(x, h, centroids).argmin(2))


def test_a_centroid_is_the_weighted_mean_of_its_vectors():
    x, h = vectors()
    centroids = grouped_kmeans(x, h, 4, iterations=200)
    nearest = cost(x, h, centroids).argmin(2)
    for one in range(3):
        for k in range(4):
            mine = nearest[one] == k
            mean = (h[one, mine] * x[one, mine]).sum(0) / h[one, mine].sum(0)
            torch.testing.assert_close(centroids[one, k], mean)


def test_iterations_lower_the_cost():
    x, h = vectors()
    costs = [float(cost(x, h, grouped_kmeans(x, h, 6, n)).amin(2).sum()) for n in (0, 1, 3, 10)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.8 * costs[0]


def test_sets_do_not_mix_and_tiles_change_nothing(monkeypatch):
    x, h = vectors()
    together = grouped_kmeans(x, h, 4, 5)
    for one in range(3):
        alone = grouped_kmeans(x[one : one + 1], h[one : one + 1], 4, 5)
        torch.testing.assert_close(together[one : one + 1], alone)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 1)
    torch.testing.assert_close(grouped_kmeans(x, h, 4, 5), together)


def test_padding_without_weight_changes_nothing():
    x, h = vectors()
    padded = torch.nn.functional.pad(x, (0, 0, 0, 7)), torch.nn.functional.pad(h, (0, 0, 0, 7))
    torch.testing.assert_close(grouped_kmeans(*padded, 4, 5), grouped_kmeans(x, h, 4, 5))


def test_seeds_are_vectors_spread_by_distance():
    x = torch.arange(1.0, 9.0).repeat_interleave(2)[None, :, None]
    x[:, ::2] *= -1  # symmetric: the distance is the magnitude
    seeds = mahalanobis_seeds(x, torch.ones_like(x), 4)
    assert seeds.abs().flatten().tolist() == [2.0, 4.0, 6.0, 8.0]


def test_fewer_vectors_than_entries():
    x, h = vectors(count=3)
    centroids = grouped_kmeans(x, h, 8, 5)
    assert float(cost(x, h, centroids).amin(2).max()) < 1e-12
