"""Additive codes: decoding and loss against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import tiles
from tests.vq.coded_examples import naive_row, naive_row_loss, random_linear


@settings(max_examples=30, deadline=None)
@given(
    out=st.integers(1, 5),
    groups=st.integers(1, 5),
    d=st.integers(1, 4),
    covered=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_rows_decode_to_scaled_sums_of_entries(out, groups, d, covered, seed):
    coverage = (groups, min(covered, groups))
    linear, codebooks = random_linear(out, groups, d, coverage, (4, 3), seed)
    wanted = torch.stack([naive_row(linear.code, codebooks, row) for row in range(out)])
    torch.testing.assert_close(
        linear.code.dequantize(codebooks).double(), wanted, rtol=1e-5, atol=1e-6
    )
    losses = linear.row_loss(codebooks)
    for row in range(out):
        wanted_loss = naive_row_loss(linear, codebooks, row)
        assert float(losses[row]) == pytest.approx(wanted_loss, rel=1e-4, abs=1e-5)


def test_a_slice_of_rows_decodes_to_those_rows():
    linear, codebooks = random_linear(out=7, coverage=(4, 2), entries=(4, 4))
    whole = linear.code.dequantize(codebooks)
    assert torch.equal(linear.code.dequantize(codebooks, slice(2, 5)), whole[2:5])


def test_decoding_leaves_codebooks_and_codes_alone():
    linear, codebooks = random_linear(coverage=(4, 2), entries=(4, 4))
    before = [c.clone() for c in codebooks]
    linear.code.decode(codebooks).zero_()
    assert all(map(torch.equal, before, codebooks))


def test_tiled_loss_is_the_same(monkeypatch):
    linear, codebooks = random_linear(out=11)
    whole = linear.row_loss(codebooks)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 1)
    torch.testing.assert_close(linear.row_loss(codebooks), whole)


def test_coverage_and_groups_are_read_from_the_codes():
    linear, _ = random_linear(groups=4, coverage=(4, 2), entries=(4, 4))
    assert linear.code.groups == 4
    assert linear.code.coverage() == [4, 2]
