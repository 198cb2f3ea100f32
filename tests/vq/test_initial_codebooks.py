"""First codebooks: residual k-means, coverage, and layers too small for their codebooks."""

import torch

from crvq.vq import initial_codebooks as module
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.vq.kmeans import kmeans
from tests.vq.coded_examples import random_linear


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_first_codebook_is_k_means_of_scaled_vectors_weighed_by_inv_diag_weight():
    linear, _ = random_linear(out=40, groups=4, d=2)
    found = initial_codebooks([linear], [8], 5, 1 << 10, seeded())
    scaled = (linear.weight / linear.code.scales[:, None]).reshape(-1, 2)
    weights = (linear.code.scales.square()[:, None] * linear.inv_diag_weight).reshape(-1, 2)
    torch.testing.assert_close(found[0], kmeans(scaled, weights, 8, 5, seeded(), 1 << 10))


def test_an_extended_codebook_is_k_means_of_the_critical_residual():
    linear, _ = random_linear(out=40, groups=4, d=2, coverage=(4, 1), entries=(8, 8))
    found = initial_codebooks([linear], [8, 8], 5, 1 << 10, seeded())
    critical = (linear.weight / linear.code.scales[:, None])[:, :2]
    weights = (linear.code.scales.square()[:, None] * linear.inv_diag_weight)[:, :2]
    error = critical[:, None] - found[0]
    nearest = (weights[:, None] * error.square()).sum(2).argmin(1)
    generator = seeded()
    # The generator has made the first codebook's draw before it makes the second's.
    kmeans(torch.zeros(160, 2), torch.ones(160, 2), 8, 1, generator, 1 << 10)
    wanted = kmeans(critical - found[0][nearest], weights, 8, 5, generator, 1 << 10)
    torch.testing.assert_close(found[1], wanted, rtol=1e-4, atol=1e-5)


def test_the_residuals_of_all_sharing_linears_are_seen(monkeypatch):
    first, _ = random_linear(out=5, groups=4, d=2, coverage=(4, 1), entries=(4, 4), seed=1)
    second, _ = random_linear(out=7, groups=3, d=2, coverage=(3, 2), entries=(4, 4), seed=2)
    second.importance = 5.0
    seen = []

    def spy(vectors, weights, *rest):
        seen.append((vectors.clone(), weights.clone()))
        return kmeans(vectors, weights, *rest)

    monkeypatch.setattr(module, "kmeans", spy)
    initial_codebooks([first, second], [4, 4], 2, 1 << 10, seeded())
    assert [len(vectors) for vectors, _ in seen] == [5 * 4 + 7 * 3, 5 * 1 + 7 * 2]
    scaled = [(x.weight / x.code.scales[:, None]).reshape(-1, 2) for x in (first, second)]
    torch.testing.assert_close(seen[0][0], torch.cat(scaled))
    costs = [
        (x.importance * x.code.scales.square()[:, None] * x.inv_diag_weight).reshape(-1, 2)
        for x in (first, second)
    ]
    torch.testing.assert_close(seen[0][1], torch.cat(costs))


def test_fewer_vectors_than_entries_give_smaller_codebooks_and_no_more_of_them():
    """2 rows of 3 groups: six vectors, which a codebook of six holds exactly."""
    linear, _ = random_linear(out=2, groups=3, d=2, coverage=(3, 1, 1), entries=(4, 4, 4))
    found = initial_codebooks([linear], [256, 256, 256], 5, 1 << 10, seeded())
    assert [len(codebook) for codebook in found] == [6]
    assert linear.code.coverage() == [3], "codes of codebooks left out go with them"


def test_no_critical_groups_leave_the_extended_codebooks_out():
    linear, _ = random_linear(out=20, groups=4, d=2, coverage=(4, 0, 0), entries=(4, 4, 4))
    found = initial_codebooks([linear], [4, 4, 4], 3, 1 << 10, seeded())
    assert len(found) == len(linear.code.codes) == 1


def test_the_weight_is_left_alone():
    linear, _ = random_linear(out=20, groups=4, d=2, coverage=(4, 1), entries=(4, 4))
    before = linear.weight.clone()
    linear.code.scales = torch.ones(20)
    initial_codebooks([linear], [4, 4], 3, 1 << 10, seeded())
    assert torch.equal(linear.weight, before)


def test_a_sample_is_drawn_over_all_sharing_linears_without_repeats():
    first, _ = random_linear(out=50, groups=4, d=2, coverage=(4, 1), entries=(4, 4), seed=1)
    second, _ = random_linear(out=30, groups=3, d=2, coverage=(3, 2), entries=(4, 4), seed=2)
    for k, total in ((0, 290), (1, 110)):
        drawn = module._draw([first, second], k, 40, seeded())
        assert sum(map(len, drawn)) == 40
        for linear, numbers in zip((first, second), drawn, strict=True):
            assert len(numbers) > 0
            assert len(numbers.unique()) == len(numbers)
            assert numbers.min() >= 0
            assert numbers.max() < linear.code.codes[k].numel()
        everything = module._draw([first, second], k, total, seeded())
        assert [len(numbers) for numbers in everything] == [
            linear.code.codes[k].numel() for linear in (first, second)
        ]


def test_a_codebook_sees_four_vectors_an_entry_however_small_the_sample(monkeypatch):
    linear, _ = random_linear(out=200, groups=4, d=2, coverage=(4,), entries=(4,))
    seen = []

    def spy(vectors, *rest):
        seen.append(len(vectors))
        return kmeans(vectors, *rest)

    monkeypatch.setattr(module, "kmeans", spy)
    initial_codebooks([linear], [16], 2, 10, seeded())
    initial_codebooks([linear], [16], 2, 100, seeded())
    assert seen == [64, 100]


def test_residuals_subtract_only_codebooks_that_cover_the_group():
    linear, _ = random_linear(out=3, groups=4, d=2, coverage=(4, 1, 3), entries=(4, 4, 4))
    linear.code.scales = torch.tensor([0.5, 1.0, 2.0])
    books = [torch.full((1, 2), 10.0), torch.full((1, 2), 100.0)]
    residual, weights = module._residual(linear, torch.arange(9), books)
    for number in range(9):
        row, group = divmod(number, 3)
        part = slice(2 * group, 2 * group + 2)
        own = linear.weight[row, part] / linear.code.scales[row]
        wanted = own - 10 - (100 if group == 0 else 0)
        torch.testing.assert_close(residual[number], wanted, rtol=1e-5, atol=1e-4)
        cost = linear.code.scales[row] ** 2 * linear.inv_diag_weight[part]
        torch.testing.assert_close(weights[number], cost)
