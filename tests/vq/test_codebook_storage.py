"""Stored codebooks: how far they may be off, and that storing twice changes nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.storage import load_codebook, round_codebook, store_codebook


def codebook(entries, d, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    ranges = torch.logspace(-spread, spread, d)
    return torch.randn(entries, d, generator=generator) * ranges


EXAMPLES = {
    "entries": st.integers(1, 40),
    "d": st.integers(1, 8),
    "spread": st.floats(0, 1.5),
    "seed": st.integers(0, 999),
}


@settings(max_examples=40, deadline=None)
@given(**EXAMPLES)
def test_float16_is_off_by_half_an_ulp_at_most(entries, d, spread, seed):
    exact = codebook(entries, d, spread, seed)
    error = (round_codebook(exact, "float16") - exact).abs()
    assert bool((error <= exact.abs() * 2.0**-11 + 2.0**-25).all())


@settings(max_examples=40, deadline=None)
@given(**EXAMPLES)
def test_int8_is_off_by_little_more_than_half_a_step_of_its_coordinate(entries, d, spread, seed):
    exact = codebook(entries, d, spread, seed)
    error = (round_codebook(exact, "int8") - exact).abs()
    # Half a step, and what rounding the step itself to half precision adds at the far end.
    step = exact.abs().amax(0) / 127
    assert bool((error <= step * (0.5 + 127 * 2.0**-11) * 1.001 + 2.0**-24).all())


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@settings(max_examples=30, deadline=None)
@given(**EXAMPLES)
def test_storing_again_changes_nothing(dtype, entries, d, spread, seed):
    once = round_codebook(codebook(entries, d, spread, seed), dtype)
    assert torch.equal(round_codebook(once, dtype), once)


def test_parts_have_the_sizes_that_bits_count():
    parts = store_codebook(torch.randn(16, 4), "int8")
    assert {name: (part.dtype, tuple(part.shape)) for name, part in parts.items()} == {
        "entries": (torch.int8, (16, 4)),
        "steps": (torch.float16, (4,)),
    }
    parts = store_codebook(torch.randn(16, 4), "float16")
    assert {name: (part.dtype, tuple(part.shape)) for name, part in parts.items()} == {
        "entries": (torch.float16, (16, 4))
    }
    assert load_codebook(parts).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_codebook_of_zeros_comes_back(dtype):
    assert torch.equal(round_codebook(torch.zeros(3, 2), dtype), torch.zeros(3, 2))


def test_int8_steps_are_never_zero():
    parts = store_codebook(torch.tensor([[0.0, 1e-9, 1.0]]), "int8")
    assert bool((parts["steps"] > 0).all())


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -7e4])
def test_entries_that_half_precision_cannot_hold_are_refused(bad, dtype):
    book = torch.zeros(3, 2)
    book[1, 1] = bad
    with pytest.raises(ValueError, match="half precision"):
        store_codebook(book, dtype)
