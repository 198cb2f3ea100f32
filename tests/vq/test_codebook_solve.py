"""Codebook solve against the dense normal equations, built parameter by parameter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import codebook_solve, tiles
from crvq.vq.codebook_solve import solve_codebooks
from tests.vq.coded_examples import copied_codes, naive_loss, random_linear


def design(linear, codebooks):
    """Derivative of Ŵ by each codebook number: (parameters, out, in), float64."""
    d = linear.group_size
    columns = []
    for k, codebook in enumerate(codebooks):
        codes = linear.code.codes[k]
        for entry in range(len(codebook)):
            for a in range(d):
                slope = torch.zeros_like(linear.weight, dtype=torch.float64)
                for group in range(codes.shape[1]):
                    hit = codes[:, group] == entry
                    slope[hit, group * d + a] = linear.code.scales[hit].double()
                columns.append(slope)
    return torch.stack(columns)


def dense_codebooks(linears, codebooks):
    """The joint minimum, by a pseudo-inverse in float64."""
    normal, right_side = 0, 0
    for linear in linears:
        slopes, h = design(linear, codebooks), linear.hessian.matrix.double()
        pushed = (slopes @ h) * linear.importance
        normal = normal + torch.einsum("poi,qoi->pq", pushed, slopes)
        right_side = right_side + torch.einsum("poi,oi->p", pushed, linear.weight.double())
    flat = torch.linalg.pinv(normal, hermitian=True, rtol=1e-10) @ right_side
    return list(flat.view(-1, codebooks[0].shape[1]).split([len(c) for c in codebooks]))


def joint_loss(linears, codebooks):
    return sum(naive_loss(linear, codebooks) * linear.importance for linear in linears)


CASES = {
    "one codebook": {"out": 8, "groups": 5, "d": 3, "coverage": (5,), "entries": (4,)},
    "extended codebooks": {
        "out": 9,
        "groups": 4,
        "d": 2,
        "coverage": (4, 2, 1),
        "entries": (3, 3, 2),
    },
    "scalar": {"out": 7, "groups": 6, "d": 1, "coverage": (6,), "entries": (3,)},
    "empty codewords": {"out": 2, "groups": 2, "d": 2, "coverage": (2, 1), "entries": (9, 5)},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reaches_the_dense_minimum(case):
    linear, codebooks = random_linear(**case)
    solved = solve_codebooks([linear], codebooks, max_steps=400, tolerance=0)
    least = naive_loss(linear, dense_codebooks([linear], codebooks))
    assert naive_loss(linear, codebooks) > 1.1 * least
    energy = linear.energy
    assert naive_loss(linear, solved) == pytest.approx(least, rel=1e-4, abs=1e-6 * energy)


def test_one_codebook_equals_the_dense_solution_itself():
    linear, codebooks = random_linear(out=12, groups=5, d=2, coverage=(5,), entries=(4,))
    solved = solve_codebooks([linear], codebooks, max_steps=400, tolerance=0)
    torch.testing.assert_close(
        solved[0].double(), dense_codebooks([linear], codebooks)[0], rtol=1e-3, atol=1e-3
    )


def test_linears_sharing_codebooks_reach_the_joint_minimum():
    first, codebooks = random_linear(out=5, groups=4, d=2, coverage=(4, 1), entries=(4, 3), seed=1)
    second, _ = random_linear(out=9, groups=3, d=2, coverage=(3, 2), entries=(4, 3), seed=2)
    second.importance = 7.0
    both = [first, second]
    solved = solve_codebooks(both, codebooks, max_steps=400, tolerance=0)
    least = joint_loss(both, dense_codebooks(both, codebooks))
    assert joint_loss(both, solved) == pytest.approx(least, rel=1e-4)
    # Neither linear alone, nor equal importance, gives the same codebooks.
    alone = joint_loss(both, dense_codebooks([second], codebooks))
    assert alone > 1.001 * least


def test_importance_weighs_the_linears():
    first, codebooks = random_linear(seed=1)
    second, _ = random_linear(seed=2)
    first.importance = 50.0
    favoured = solve_codebooks([first, second], codebooks, 200, tolerance=0)
    first.importance = 1.0
    even = solve_codebooks([first, second], codebooks, 200, tolerance=0)
    assert naive_loss(first, favoured) < naive_loss(first, even)


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 9),
    groups=st.integers(1, 5),
    d=st.integers(1, 4),
    entries=st.integers(1, 12),
    steps=st.integers(1, 7),
    log_condition=st.integers(0, 7),
    seed=st.integers(0, 1000),
)
def test_no_number_of_steps_raises_the_loss(out, groups, d, entries, steps, log_condition, seed):
    coverage = (groups, max(1, groups // 2))
    linear, codebooks = random_linear(
        out, groups, d, coverage, (entries, entries), seed, 10.0**log_condition
    )
    codes = copied_codes(linear)
    solved = solve_codebooks([linear], codebooks, steps)
    before, after = naive_loss(linear, codebooks), naive_loss(linear, solved)
    assert after <= before * (1 + 1e-5) + 1e-6 * linear.energy
    for kept, now in zip(codes, linear.code.codes, strict=True):
        assert torch.equal(kept, now)


def test_more_steps_are_not_worse():
    linear, codebooks = random_linear(16, 8, 4, (8, 2), (8, 8), condition=1e4)
    losses = [naive_loss(linear, solve_codebooks([linear], codebooks, n, 0)) for n in (1, 2, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < naive_loss(linear, codebooks)


def test_empty_codewords_stay_where_they_are():
    linear, codebooks = random_linear(entries=(50,))
    unused = torch.ones(50, dtype=torch.bool)
    unused[linear.code.codes[0].unique()] = False
    solved = solve_codebooks([linear], codebooks, 50)
    assert bool(unused.any())
    torch.testing.assert_close(solved[0][unused], codebooks[0][unused], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["rank one", "zero"])
def test_survives_a_singular_second_moment(kind):
    linear, codebooks = random_linear(coverage=(4, 2), entries=(4, 4))
    x = torch.arange(1.0, 9.0)
    linear.hessian.matrix = torch.outer(x, x) if kind == "rank one" else torch.zeros(8, 8)
    before = naive_loss(linear, codebooks)
    solved = solve_codebooks([linear], codebooks, 30)
    assert all(bool(torch.isfinite(codebook).all()) for codebook in solved)
    assert naive_loss(linear, solved) <= before * (1 + 1e-5)
    if kind == "rank one":
        least = naive_loss(linear, dense_codebooks([linear], codebooks))
        assert naive_loss(linear, solved) == pytest.approx(least, rel=1e-2, abs=1e-4 * before)


def test_a_block_that_is_not_positive_definite_falls_back_to_its_diagonal():
    linear, _codebooks = random_linear()
    linear.hessian.matrix = torch.block_diag(*[torch.tensor([[1.0, 1.1], [1.1, 1.0]])] * 4)
    factor = codebook_solve._preconditioner([linear], [4])
    assert bool(torch.isfinite(factor).all())
    assert not bool(factor[:, 1, 0].any())
    assert bool((factor.diagonal(dim1=1, dim2=2) > 0).all())


def test_values_are_summed_by_entry():
    linear, _codebooks = random_linear(coverage=(4, 1), entries=(4, 3))
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(7, 2, dtype=torch.float64)
    codebook_solve.add_by_entry(total, values, linear, slice(None), [4, 3])
    expected = torch.zeros(7, 2, dtype=torch.float64)
    for k, offset in ((0, 0), (1, 4)):
        for row in range(6):
            for group, entry in enumerate(linear.code.codes[k][row]):
                expected[offset + entry] += values[row, 2 * group : 2 * group + 2].double()
    torch.testing.assert_close(total, expected)


def test_tile_size_changes_nothing_but_rounding(monkeypatch):
    linear, codebooks = random_linear(20, 6, 4, (6, 3), (8, 8))
    whole = solve_codebooks([linear], codebooks, 6)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 30)
    tiled = solve_codebooks([linear], codebooks, 6)
    for a, b in zip(whole, tiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_no_steps_and_no_linears_leave_the_codebooks():
    linear, codebooks = random_linear()
    assert solve_codebooks([linear], codebooks, 0) is codebooks
    assert solve_codebooks([], codebooks, 5) is codebooks
