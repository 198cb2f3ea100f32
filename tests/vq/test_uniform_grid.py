import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.gptq import quantize_columns
from crvq.vq.uniform_grid import GridColumns, fit_grid, grid_codes, grid_values


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_values_in_range_move_by_at_most_half_a_step(bits, columns, seed, size):
    weight = size * torch.randn(5, columns, generator=torch.Generator().manual_seed(seed))
    steps, zeros = fit_grid(weight, bits)
    steps, zeros = steps[:, None], zeros[:, None]
    codes = grid_codes(weight, steps, zeros, bits)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**bits
    error = (grid_values(codes, steps, zeros) - weight).abs()
    # Half a step from rounding the value, half from rounding the zero point, and float16 steps,
    # which are 2^-24 apart among subnormals.
    assert bool((error <= steps * (1 + 2.0**bits * 2e-3) + 2.0**bits * 2.0**-25).all())
    assert torch.equal(steps.half().float(), steps)


def test_each_value_gets_the_nearest_of_all_grid_values():
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    steps, zeros = fit_grid(weight, 2)
    steps, zeros = steps[:, None], zeros[:, None]
    grid = grid_values(torch.arange(4).expand(4, 4), steps, zeros)
    values = grid_values(grid_codes(weight, steps, zeros, 2), steps, zeros)
    best = (weight[:, :, None] - grid[:, None]).abs().amin(2)
    torch.testing.assert_close((weight - values).abs(), best)


@pytest.mark.parametrize("weight", [[[0.0, 0.0]], [[3.0, 3.0]], [[-2.0, -2.0]]], ids=str)
def test_zero_and_one_sided_rows(weight):
    weight = torch.tensor(weight)
    steps, zeros = fit_grid(weight, 3)
    codes = grid_codes(weight, steps[:, None], zeros[:, None], 3)
    values = grid_values(codes, steps[:, None], zeros[:, None])
    torch.testing.assert_close(values, weight, rtol=1e-3, atol=1e-6)


def test_each_group_has_the_grid_of_its_own_columns():
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    columns = GridColumns((3, 10), 2, 4, weight.device)
    result = quantize_columns(weight, columns, factor=None)
    for group, span in enumerate([slice(0, 4), slice(4, 8), slice(8, 10)]):
        steps, zeros = fit_grid(weight[:, span], 2)
        assert torch.equal(columns.steps[:, group], steps)
        codes = grid_codes(weight[:, span], steps[:, None], zeros[:, None], 2)
        assert torch.equal(columns.codes[:, span], codes)
        assert torch.equal(result[:, span], grid_values(codes, steps[:, None], zeros[:, None]))
