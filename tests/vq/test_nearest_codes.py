import itertools

import pytest
import torch

from crvq.vq.nearest_codes import nearest_codes

D = 3


def problem(sizes, seed=0, count=60):
    generator = torch.Generator().manual_seed(seed)
    books = [torch.randn(size, D, generator=generator) / (k + 1) for k, size in enumerate(sizes)]
    codes = [torch.randint(0, size, (count,), generator=generator) for size in sizes]
    targets = torch.randn(count, D, generator=generator)
    return targets, torch.rand(count, D, generator=generator), torch.stack(codes, 1), books


def distances(targets, metric, books):
    """Of every combination of codes, in float64: ``(n, combinations)``."""
    sums = [sum(entries) for entries in itertools.product(*[book.double() for book in books])]
    errors = targets.double()[:, None] - torch.stack(sums)
    return (metric.double()[:, None] * errors.square()).sum(2)


def number_of(codes, books):
    number = torch.zeros(len(codes), dtype=torch.int64)
    for k, book in enumerate(books):
        number = number * len(book) + codes[:, k]
    return number


@pytest.mark.parametrize(("sizes", "beam"), [((16,), 1), ((8, 6), 8), ((4, 3, 5), 12)])
def test_a_wide_beam_finds_the_best_of_all_combinations(sizes, beam):
    targets, metric, codes, books = problem(sizes)
    found, gains = nearest_codes(targets, metric, codes, books, beam)
    every = distances(targets, metric, books)
    assert torch.equal(number_of(found, books), every.argmin(1))
    before = every.gather(1, number_of(codes, books)[:, None])[:, 0]
    torch.testing.assert_close(gains.double(), before - every.amin(1), atol=1e-5, rtol=1e-4)
    assert (gains > 0).sum() > 40


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_never_goes_farther_away(beam):
    targets, metric, codes, books = problem((8, 6, 4))
    found, gains = nearest_codes(targets, metric, codes, books, beam)
    every = distances(targets, metric, books)
    before = every.gather(1, number_of(codes, books)[:, None])[:, 0]
    after = every.gather(1, number_of(found, books)[:, None])[:, 0]
    assert bool((after <= before + 1e-6).all())
    stays = (found == codes).all(1)
    assert torch.equal(gains == 0, stays)
    again, none = nearest_codes(targets, metric, found, books, beam)
    assert float(none.sum()) < 0.1 * float(gains.sum())
    assert again.shape == found.shape


def test_vectors_that_are_reached_stay():
    _, metric, codes, books = problem((8, 6))
    targets = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    found, gains = nearest_codes(targets, metric, codes, books, 4)
    assert torch.equal(found, codes)
    assert not gains.any()
