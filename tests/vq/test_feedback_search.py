"""Feedback search against brute force, the damped loss it claims, and a few-line GPTQ."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import feedback_search, tiles
from crvq.vq.additive_code import AdditiveCode, coded_linear
from crvq.vq.feedback_search import search_codes
from crvq.vq.hessian import Hessian
from tests.vq.coded_examples import naive_row_loss, random_linear, second_moment


def damped(linear, damping):
    return (
        linear.hessian.matrix.double()
        + damping
        * linear.hessian.matrix.diagonal().double().mean()
        * (torch.eye(len(linear.hessian.matrix), dtype=torch.float64))
    )


def brute_force(linear, codebooks, row):
    """The least loss of a row over all its codes."""
    places = [(k, g) for k, codes in enumerate(linear.code.codes) for g in range(codes.shape[1])]
    code = AdditiveCode([c.clone() for c in linear.code.codes], linear.code.scales)
    least = float("inf")
    for choice in product(*(range(len(codebooks[k])) for k, _ in places)):
        for (k, g), entry in zip(places, choice, strict=True):
            code.codes[k][row, g] = entry
        least = min(least, naive_row_loss(linear, codebooks, row, code))
    return least


CASES = {
    "one codebook": {"out": 4, "groups": 4, "d": 2, "coverage": (4,), "entries": (4,)},
    "two codebooks": {"out": 8, "groups": 3, "d": 2, "coverage": (3, 1), "entries": (4, 3)},
    "two everywhere": {
        "out": 8,
        "groups": 2,
        "d": 3,
        "coverage": (2, 2),
        "entries": (4, 4),
    },
    "uneven": {"out": 8, "groups": 3, "d": 2, "coverage": (3, 1, 2), "entries": (3, 2, 2)},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_beam_that_keeps_all_finds_the_optimum(case):
    linear, codebooks = random_linear(**case, damping=0.0, condition=200.0)
    found = search_codes(linear, codebooks, beam=300, block_columns=2 * case["d"])
    greedy = search_codes(linear, codebooks, beam=1)
    missed = 0
    for row in range(case["out"]):
        best = brute_force(linear, codebooks, row)
        assert naive_row_loss(linear, codebooks, row, found) == pytest.approx(best, rel=1e-4)
        missed += naive_row_loss(linear, codebooks, row, greedy) > 1.001 * best
    assert missed, "a case that beam 1 solves as well shows nothing"


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 6),
    d=st.integers(1, 4),
    entries=st.integers(1, 6),
    covered=st.integers(0, 6),
    beam=st.integers(1, 9),
    block_groups=st.integers(1, 7),
    damping=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_the_beams_cost_is_the_damped_loss_of_its_codes(
    groups, d, entries, covered, beam, block_groups, damping, seed
):
    coverage = (groups, min(covered, groups), min(covered, groups))
    linear, codebooks = random_linear(4, groups, d, coverage, (entries,) * 3, seed, 1e3, damping)
    inverses = feedback_search._diagonal_inverses(linear)
    rows = slice(0, 4)
    survivors = feedback_search._search_rows(
        linear, codebooks, rows, inverses, beam, block_groups * d
    )
    code = AdditiveCode([torch.empty_like(c) for c in linear.code.codes], linear.code.scales)
    feedback_search._trace_back(survivors, code, rows)
    matrix = damped(linear, damping)
    claimed = survivors.cost[:, 0] * linear.code.scales.square()
    for row in range(4):
        true = naive_row_loss(linear, codebooks, row, code, matrix)
        assert float(claimed[row]) == pytest.approx(true, rel=1e-3, abs=1e-4)
    assert bool((survivors.cost.diff(dim=1) >= -1e-4).all()), "best survivor first"


def gptq(weight, matrix, grid):
    """GPTQ for scalars: nearest grid point, and the rest of the row answers the error."""
    upper = torch.linalg.cholesky(torch.linalg.inv(matrix), upper=True)
    left = weight.double().clone()
    codes = torch.empty(weight.shape, dtype=torch.int64)
    for j in range(left.shape[1]):
        codes[:, j] = (left[:, j, None] - grid.double()).abs().argmin(1)
        error = (left[:, j] - grid.double()[codes[:, j]]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return codes


@pytest.mark.parametrize("block_columns", [1, 5, 128])
def test_scalars_on_a_grid_are_gptq(block_columns):
    linear, _ = random_linear(10, 24, 1, (24,), (16,), condition=1e3, damping=0.01)
    linear.code.scales = torch.ones(10)
    grid = torch.linspace(-2.5, 2.5, 16)
    found = search_codes(linear, [grid[:, None]], beam=1, block_columns=block_columns)
    assert torch.equal(found.codes[0], gptq(linear.weight, damped(linear, 0.01), grid))


def test_scales_divide_the_weight():
    linear, _ = random_linear(10, 24, 1, (24,), (16,), condition=1e3)
    grid = torch.linspace(-2.5, 2.5, 16)
    found = search_codes(linear, [grid[:, None]])
    scaled = linear.weight / linear.code.scales[:, None]
    assert torch.equal(found.codes[0], gptq(scaled, damped(linear, 0.01), grid))


def test_channels_are_coded_in_the_linears_order():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(5))
    h = second_moment(12, 6)
    linear = coded_linear(weight, Hessian(h, 0.01), order, [12], torch.ones(5))
    grid = torch.linspace(-2, 2, 8)
    found = search_codes(linear, [grid[:, None]])
    matrix = (h.double() + 0.01 * h.diagonal().double().mean() * torch.eye(12))[order][:, order]
    assert torch.equal(found.codes[0], gptq(weight[:, order], matrix, grid))


def test_wider_beams_are_better_on_average():
    totals = []
    for beam in (1, 4, 16):
        total = 0.0
        for seed in range(4):
            linear, codebooks = random_linear(24, 8, 2, (8, 2), (8, 8), seed, 1e2, 0.0)
            total += float(linear.row_loss(codebooks, search_codes(linear, codebooks, beam)).sum())
        totals.append(total)
    assert totals[0] > 1.02 * totals[1] > totals[2]


@pytest.mark.parametrize("beam", [1, 3])
def test_tile_and_block_size_change_no_code(monkeypatch, beam):
    linear, codebooks = random_linear(11, 8, 2, (8, 3), (6, 6), condition=1e3)
    usual = search_codes(linear, codebooks, beam)
    for columns in (2, 6):
        blocked = search_codes(linear, codebooks, beam, block_columns=columns)
        assert all(map(torch.equal, usual.codes, blocked.codes))
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 40)
    tiled = search_codes(linear, codebooks, beam)
    assert all(map(torch.equal, usual.codes, tiled.codes))


def test_the_linears_own_codes_are_left_alone():
    linear, codebooks = random_linear()
    before = linear.code.codes[0].clone()
    found = search_codes(linear, codebooks)
    assert not torch.equal(found.codes[0], before)
    assert torch.equal(linear.code.codes[0], before)
