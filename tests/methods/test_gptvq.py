import pytest
import torch

from crvq.methods.gptvq import GptvqParams, patch_layout
from crvq.vq.hessian import Hessian
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize

QUICK = {"codebook_bits": 3, "weights_per_codebook": 128, "columns": 16, "em_iterations": 8}


@pytest.mark.parametrize("vector_size", [1, 2, 4, 8])
@pytest.mark.parametrize("scale_block", [None, 8])
@pytest.mark.parametrize("shape", [(24, 32), (21, 30)], ids=str)
def test_what_is_told_is_what_is_stored(shape, scale_block, vector_size):
    linear = random_linear(*shape)
    params = {**QUICK, "vector_size": vector_size, "scale_block": scale_block}
    result = quantize("gptvq", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("gptvq", linear, **params)
    assert (result.weight.bits().scales > 0) == (scale_block is not None)


def test_the_codebook_update_helps():
    linear = random_linear(48, 32)
    before = quantize("gptvq", linear, **QUICK, update_steps=0).relative_loss
    after = quantize("gptvq", linear, **QUICK, update_steps=25).relative_loss
    assert after < 0.95 * before


def test_codes_of_one_column_beat_a_uniform_grid():
    linear = random_linear(64, 32)
    scalar = quantize("gptq", linear, bits=2, group_size=None)
    vector = quantize(
        "gptvq", linear, vector_size=1, codebook_bits=2, weights_per_codebook=64, columns=32
    )
    assert vector.relative_loss < scalar.relative_loss


def test_patches_hold_about_as_many_weights_as_asked():
    params = GptvqParams(weights_per_codebook=2048, columns=256)
    layout = patch_layout(params, 576, 576)
    assert (layout.columns, layout.strips) == (256, 3)
    assert layout.rows * layout.columns == 2048
    small = patch_layout(params, 3, 10)
    assert (small.rows, small.bands, small.strips) == (3, 1, 1)


def test_zero_weights():
    linear = random_linear()
    linear.weight.zero_()
    result = quantize("gptvq", linear, **QUICK, scale_block=8)
    assert not result.weight.dequantize().any()
    assert result.relative_loss == 0.0


def test_a_seed_is_not_needed():
    one, other = (quantize("gptvq", random_linear(), **QUICK).weight.codes for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"vector_size": 3}, "Input should be 1, 2, 4 or 8"),
        ({"codebook_bits": 8, "weights_per_codebook": 500}, "set it to 512 at least"),
        ({"columns": 12}, "multiple of 8"),
        ({"scale_block": 4}, "multiple of 8"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        GptvqParams(**params)


def test_codebooks_spend_their_entries_on_hot_channels():
    """Uncorrelated channels, every second one hot: the hot one's error is far less."""
    diag_h = torch.ones(32)
    diag_h[::2] = 100.0
    linear = random_linear(64, 32, hessian=Hessian(diag_h.diag()))
    weight = quantize("gptvq", linear, **QUICK, vector_size=2, update_steps=0).weight
    error = (weight.dequantize() - linear.weight).square().mean(0)
    assert float(error[::2].mean()) < 0.1 * float(error[1::2].mean())


def test_scales_of_blocks_help_where_blocks_differ_in_size():
    linear = random_linear(48, 32)
    linear.weight.view(48, 4, 8).mul_(torch.logspace(-1, 0.5, 4)[None, [2, 0, 3, 1], None])
    with_scales = quantize("gptvq", linear, **QUICK, scale_block=8).relative_loss
    assert with_scales < 0.9 * quantize("gptvq", linear, **QUICK).relative_loss
