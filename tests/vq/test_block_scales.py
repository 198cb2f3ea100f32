import pytest
import torch

from crvq.vq.patch_columns import block_scales, fit_block_scales


@pytest.mark.parametrize("columns", [16, 13])
def test_a_scale_is_near_its_blocks_largest_weight(columns):
    weight = torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-1, 1, 6)[:, None]
    codes, span = fit_block_scales(weight, 4)
    scales = block_scales(codes, span, 4, columns)
    assert scales.shape == weight.shape
    assert int(codes.max()) <= 15
    for row in range(6):
        for start in range(0, columns, 4):
            largest = float(weight[row, start : start + 4].abs().max())
            ratio = float(scales[row, start]) / largest
            # Half a step between codes, plus float16's rounding of the span.
            assert 2 ** -(float(span[1]) / 2 + 0.05) <= ratio <= 2 ** (float(span[1]) / 2 + 0.05)
            assert len(set(scales[row, start : start + 4].tolist())) == 1


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_blocks(value):
    codes, span = fit_block_scales(torch.full((2, 8), value), 4)
    scales = block_scales(codes, span, 4, 8)
    assert bool((scales > 0).all())
    assert len(set(scales.flatten().tolist())) == 1


def test_a_block_of_zeros_leaves_the_others_as_they_were():
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    codes, span = fit_block_scales(weight[:, 4:], 4)
    weight[:, :4] = 0
    whole, same = fit_block_scales(weight, 4)
    assert torch.equal(span, same)
    assert torch.equal(codes, whole[:, 1:])
