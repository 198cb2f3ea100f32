"""Coordinate descent against a search that evaluates the whole loss for every candidate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import coordinate_descent, tiles
from crvq.vq.coordinate_descent import descend_codes
from tests.vq.coded_examples import copied_codes, naive_row_loss, random_linear


def naive_sweep(linear, codebooks, passes):
    """Codes after one sweep that tries each entry and looks at all of the row's loss."""
    for row in range(len(linear.weight)):
        for group in range(linear.code.groups):
            covering = [k for k, c in enumerate(linear.code.codes) if group < c.shape[1]]
            for k in covering * (passes if len(covering) > 1 else 1):
                losses = []
                for entry in range(len(codebooks[k])):
                    linear.code.codes[k][row, group] = entry
                    losses.append(naive_row_loss(linear, codebooks, row))
                linear.code.codes[k][row, group] = losses.index(min(losses))


CASES = {
    "one codebook": {"out": 5, "groups": 6, "d": 2, "coverage": (6,), "entries": (5,)},
    "extended": {
        "out": 5,
        "groups": 5,
        "d": 3,
        "coverage": (5, 2, 1),
        "entries": (4, 3, 3),
    },
    "uneven": {"out": 4, "groups": 4, "d": 2, "coverage": (4, 1, 3), "entries": (4, 3, 3)},
    "scalar": {"out": 6, "groups": 7, "d": 1, "coverage": (7,), "entries": (6,)},
}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_naive_sweep(case, passes):
    fast, codebooks = random_linear(**case)
    slow, _ = random_linear(**case)
    descend_codes(fast, codebooks, passes)
    naive_sweep(slow, codebooks, passes)
    for a, b in zip(fast.code.codes, slow.code.codes, strict=True):
        assert torch.equal(a, b)


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 8),
    groups=st.integers(1, 7),
    d=st.integers(1, 5),
    entries=st.integers(1, 9),
    extended=st.integers(0, 3),
    covered=st.integers(0, 7),
    log_condition=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
def test_no_sweep_raises_a_rows_loss(
    out, groups, d, entries, extended, covered, log_condition, seed
):
    coverage = (groups,) + (min(covered, groups),) * extended
    linear, codebooks = random_linear(
        out, groups, d, coverage, (entries,) * (1 + extended), seed, 10.0**log_condition
    )
    slack = 1e-5 * linear.energy / out + 1e-9
    losses = [naive_row_loss(linear, codebooks, row) for row in range(out)]
    for _ in range(3):
        descend_codes(linear, codebooks)
        after = [naive_row_loss(linear, codebooks, row) for row in range(out)]
        assert all(b <= a * (1 + 1e-5) + slack for a, b in zip(losses, after, strict=True))
        losses = after


def test_sweeps_end_where_no_single_code_can_be_bettered():
    linear, codebooks = random_linear(out=6, groups=5, d=2, coverage=(5, 2), entries=(4, 4))
    for _ in range(20):
        descend_codes(linear, codebooks)
    settled = copied_codes(linear)
    naive_sweep(linear, codebooks, 1)
    assert all(torch.equal(a, b) for a, b in zip(settled, linear.code.codes, strict=True))


@pytest.mark.parametrize("block_columns", [1, 4, 6, 1000])
def test_block_columns_change_no_code(block_columns):
    case = {"out": 9, "groups": 8, "d": 2, "coverage": (8, 3), "entries": (6, 6)}
    usual, codebooks = random_linear(**case)
    other, _ = random_linear(**case)
    descend_codes(usual, codebooks)
    descend_codes(other, codebooks, block_columns=block_columns)
    assert all(map(torch.equal, usual.code.codes, other.code.codes))


@pytest.mark.parametrize("elements", [1, 40])
def test_tile_size_changes_no_code(monkeypatch, elements):
    case = {"out": 9, "groups": 8, "d": 2, "coverage": (8, 3), "entries": (6, 6)}
    usual, codebooks = random_linear(**case)
    other, _ = random_linear(**case)
    descend_codes(usual, codebooks)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", elements)
    descend_codes(other, codebooks)
    assert all(map(torch.equal, usual.code.codes, other.code.codes))


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9])
def test_the_incremental_residual_equals_the_recomputed_one(monkeypatch, condition):
    linear, codebooks = random_linear(32, 24, 4, (24, 3), (16, 16), 5, condition)
    state = {}
    real = coordinate_descent._descend_block

    def spy(linear, codebooks, rows, decoded, residual_h, span, passes):
        real(linear, codebooks, rows, decoded, residual_h, span, passes)
        state.update(decoded=decoded, residual_h=residual_h)

    monkeypatch.setattr(coordinate_descent, "_descend_block", spy)
    for _ in range(3):
        descend_codes(linear, codebooks, block_columns=16)
        decoded = linear.code.decode(codebooks)
        torch.testing.assert_close(state["decoded"], decoded, rtol=1e-5, atol=1e-5)
        error = linear.weight.double() - (decoded * linear.code.scales[:, None]).double()
        exact = error @ linear.hessian.matrix.double()
        size = float(linear.weight.norm() * torch.linalg.matrix_norm(linear.hessian.matrix, 2))
        drift = float((state["residual_h"].double() - exact).norm())
        assert drift < 2e-6 * size
