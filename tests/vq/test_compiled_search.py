"""The compiled CPU kernels against the search written in torch."""

import pytest
import torch

from crvq.vq import compiled_search
from crvq.vq import kernels as compiled
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.feedback_search import search_codes
from crvq.vq.kmeans import nearest_centroids
from tests.vq.coded_examples import naive_row_loss, random_linear

CASES = {
    "one codebook": {"out": 37, "groups": 40, "d": 4, "coverage": (40,), "entries": (64,)},
    "length 8": {"out": 33, "groups": 7, "d": 8, "coverage": (7, 1, 1), "entries": (300, 16, 9)},
    "odd sizes": {"out": 19, "groups": 13, "d": 3, "coverage": (13, 5, 2), "entries": (7, 3, 30)},
    "scalars": {"out": 20, "groups": 70, "d": 1, "coverage": (70,), "entries": (5,)},
    "all covered twice": {"out": 20, "groups": 9, "d": 8, "coverage": (9, 9), "entries": (32, 32)},
    "long vectors": {"out": 20, "groups": 3, "d": 17, "coverage": (3, 1), "entries": (20, 4)},
}  # fmt: skip


@pytest.fixture
def both(monkeypatch):
    """Call a function with compiled kernels and with torch alone."""
    module = compiled._compiled_search()
    assert module is compiled_search, "numba is a dependency, so tests need it"

    def call(work):
        results = []
        for chosen in (module, None):
            monkeypatch.setattr(compiled, "_compiled_search", lambda chosen=chosen: chosen)
            results.append(work())
        return results

    return call


@pytest.mark.parametrize("block_columns", [8, 24, 128])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_descent_chooses_the_same_codes(both, case, block_columns):
    def descend():
        linear, codebooks = random_linear(**case)
        loss = descend_codes(linear, codebooks, block_columns=block_columns)
        return linear.code.codes, loss

    (codes, loss), (expected, expected_loss) = both(descend)
    assert all(map(torch.equal, codes, expected))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_feedback_search_chooses_the_same_codes(both, case, beam):
    def search():
        linear, codebooks = random_linear(**case)
        return search_codes(linear, codebooks, beam, block_columns=24).codes

    codes, expected = both(search)
    assert all(map(torch.equal, codes, expected))


@pytest.mark.parametrize(("d", "entries"), [(1, 3), (4, 256), (5, 100), (8, 40)])
def test_nearest_centroids_are_the_same(both, d, entries):
    generator = torch.Generator().manual_seed(d)
    vectors = torch.randn(500, d, generator=generator)
    weights = torch.rand(500, d, generator=generator)
    centroids = torch.randn(entries, d, generator=generator)
    centroids[-1] = centroids[0]  # of equal ones the first
    (indices, distances), (expected, expected_distances) = both(
        lambda: nearest_centroids(vectors, weights, centroids)
    )
    assert torch.equal(indices, expected)
    torch.testing.assert_close(distances, expected_distances)


def test_sums_by_entry_are_those_of_index_add():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(7, (30, 5), generator=generator)
    values = torch.randn(30, 20, generator=generator)
    total = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    expected = total.index_add(0, codes.flatten(), values.view(-1, 4).double())
    compiled_search.add_by_entry(total, values, codes)
    assert torch.equal(total, expected)


@pytest.mark.parametrize("beam", [1, 3])
def test_the_number_of_threads_changes_nothing(both, beam):
    def search():
        linear, codebooks = random_linear(101, 12, 4, (12, 3), (30, 20))
        search_codes(linear, codebooks, beam, into=linear.code)
        loss = descend_codes(linear, codebooks)
        return [*linear.code.codes, loss]

    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(both(search)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_a_compiled_sweep_lowers_every_rows_loss():
    linear, codebooks = random_linear(50, 20, 4, (20, 4), (40, 40))
    before = [naive_row_loss(linear, codebooks, row) for row in range(50)]
    descend_codes(linear, codebooks)
    after = [naive_row_loss(linear, codebooks, row) for row in range(50)]
    assert all(b <= a * (1 + 1e-5) + 1e-6 for a, b in zip(before, after, strict=True))
    assert sum(after) < 0.9 * sum(before)


def test_kernels_can_be_turned_off(monkeypatch):
    compiled._compiled_search.cache_clear()
    monkeypatch.setenv("CRVQ_COMPILED", "0")
    assert compiled.compiled_search_for(torch.device("cpu")) is None
    compiled._compiled_search.cache_clear()


def test_without_numba_torch_searches(monkeypatch):
    def missing(name):
        raise ImportError(name)

    compiled._compiled_search.cache_clear()
    monkeypatch.setattr(compiled.importlib, "import_module", missing)
    assert compiled.compiled_search_for(torch.device("cpu")) is None
    compiled._compiled_search.cache_clear()


def test_other_devices_are_not_served():
    assert compiled.compiled_search_for(torch.device("meta")) is None
