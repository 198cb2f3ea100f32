"""Best entries against brute force over all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import tiles
from crvq.vq.nearest_codes import best_entries
from tests.vq.coded_examples import second_moment


def brute(vectors, metric, codebook):
    """‖x - c‖²_M for each pair, less ‖x‖²_M: (n, entries), float64."""
    error = vectors.double()[:, None] - codebook.double()[None]
    distance = torch.einsum("nea,ab,neb->ne", error, metric.double(), error)
    own = torch.einsum("na,ab,nb->n", vectors.double(), metric.double(), vectors.double())
    return distance - own[:, None]


def example(n, d, entries, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, d, generator=generator)
    return vectors, second_moment(d, seed, 10.0), torch.randn(entries, d, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 9),
    entries=st.integers(1, 40),
    count=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_scores_and_ranks_equal_brute_force(n, d, entries, count, seed):
    vectors, metric, codebook = example(n, d, entries, seed)
    scores, indices = best_entries(vectors @ metric, metric, codebook, count)
    wanted = brute(vectors, metric, codebook)
    kept = min(count, entries)
    assert scores.shape == indices.shape == (n, kept)
    ranked = wanted.sort(1).values[:, :kept]
    torch.testing.assert_close(scores.double(), ranked, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wanted.gather(1, indices), ranked, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("elements", [1, 37])
def test_tiny_tiles_find_the_same(monkeypatch, elements, count):
    vectors, metric, codebook = example(50, 4, 16, 3)
    whole = best_entries(vectors @ metric, metric, codebook, count)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", elements)
    tiled = best_entries(vectors @ metric, metric, codebook, count)
    assert torch.equal(whole[1], tiled[1])
    torch.testing.assert_close(whole[0], tiled[0])


def test_4096_entries_in_tiles():
    vectors, metric, codebook = example(300, 4, 1 << 12, 5)
    _, indices = best_entries(vectors @ metric, metric, codebook, 1)
    wanted = brute(vectors, metric, codebook)
    best = wanted.min(1).values
    torch.testing.assert_close(wanted.gather(1, indices)[:, 0], best, rtol=1e-4, atol=1e-5)
