"""Weights of any size: no method may lose more than leaving the linear out would."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crvq.methods import LinearInput, method_names
from crvq.vq.hessian import Hessian
from crvq.weights import unpack_weight
from tests.methods.linear_examples import random_linear, relative_loss
from tests.methods.method_checks import make

QUICK = {
    "crvq": {
        "codebook_bits": 4,
        "extended_bits": 3,
        "critical_ratio": 0.25,
        "max_rounds": 2,
        "kmeans_iterations": 3,
    },
    "aqlm": {"codebook_bits": 4, "codebooks": 2, "max_rounds": 2, "kmeans_iterations": 3},
    "gptvq": {"codebook_bits": 3, "weights_per_codebook": 128, "columns": 16, "em_iterations": 5},
    "arb_llm": {"block_size": 16},
    "billm": {"block_size": 16},
    "pb_llm": {},
    "gptq": {},
    "rtn": {},
    "fairy2i": {},
    "gqsa": {"sparsity": 0.0, "bits": 3},
    "nanoquant": {"bits": 2.0, "iterations": 5},
    "obc": {},
    "qtip": {"bits": 3, "state_bits": 6},
    "onebit": {},
    "omniquant": {"steps": 5},
    "squeezellm": {},
    "pt2_llm": {"block_size": 16},
    "ptqtp": {"group_size": 16},
    "vptq": {"codebook_bits": 3, "kmeans_iterations": 5},
}
OTHERS = [
    ("crvq", {"codebook_dtype": "int8"}),
    ("gptvq", {"scale_block": 8}),
    ("gptq", {"bits": 8}),
    ("rtn", {"bits": 8, "group_size": 16}),
    ("pt2_llm", {"feedback_columns": 1, "reorder": False}),
    ("ptqtp", {"error_feedback": True, "planes": 3}),
    ("vptq", {"residual_bits": 2, "outlier_ratio": 0.1, "outlier_bits": 4}),
]
TWO_SIDED = ("nanoquant", "onebit")
CASES = [*((name, {}) for name in QUICK), *OTHERS]
each_case = pytest.mark.parametrize(("name", "params"), CASES, ids=str)


def quantized(name, linear, **params):
    (result,) = make(name, **{**QUICK[name], **params}).quantize_block(0, [linear])
    weight = result.weight
    restored = unpack_weight(weight.header(), weight.pack(), {}).dequantize()
    assert torch.equal(restored, weight.dequantize())
    assert bool(torch.isfinite(restored).all())
    return result, restored


def resized(linear, sizes):
    return LinearInput(**{**vars(linear), "weight": linear.weight * sizes})


def test_no_method_is_left_out():
    assert set(method_names()) - {"full_precision"} == set(QUICK)


@each_case
@settings(max_examples=12)
@given(exponent=st.floats(-9, 6), seed=st.integers(0, 20))
@example(exponent=-7.75, seed=0)
@example(exponent=-8.0, seed=3)
def test_relative_loss_is_at_most_one_at_any_size(name, params, exponent, seed):
    linear = resized(random_linear(12, 32, seed=seed), 10.0**exponent)
    result, dense = quantized(name, linear, **params)
    assert relative_loss(linear, dense) <= 1 + 1e-5
    assert result.relative_loss <= 1 + 1e-4
    assert result.relative_loss == pytest.approx(relative_loss(linear, dense), rel=1e-3, abs=1e-6)


@each_case
def test_rows_of_very_different_sizes_each_lose_at_most_themselves(name, params):
    """Among them a row of zeros, one of rms 6e-7, and one that float16 cannot reach."""
    sizes = torch.ones(12, 1)
    sizes[0], sizes[1], sizes[2], sizes[3] = 0.0, 6e-7, 1e-9, 1e-4
    linear = resized(random_linear(12, 32, hessian=Hessian(torch.eye(32))), sizes)
    _, dense = quantized(name, linear, **params)
    loss, energy = (linear.weight - dense).square().sum(1), linear.weight.square().sum(1)
    if name in ("gptvq", "vptq"):
        return  # a codebook serves several rows, and fits the largest
    assert loss[0] == 0
    assert bool((loss <= energy * (1 + 1e-5)).all()), (loss / energy).tolist()


@each_case
def test_a_zero_scale_loses_exactly_the_weight(name, params):
    if "scale_block" in params:
        return  # its block scales are powers of two, and reach far lower
    if name in TWO_SIDED:
        return  # the product of two scales reaches far below float16
    linear = resized(random_linear(12, 32), 1e-12)
    result, dense = quantized(name, linear, **params)
    assert not bool(dense.any())
    assert result.relative_loss == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["crvq", "rtn", "billm"])
def test_clipped_scales_are_noted(name):
    """Numbers near 2e5: their steps fit, their scales do not."""
    linear = resized(random_linear(12, 32), 2e6)
    result, _ = quantized(name, linear)
    assert any("65504" in note for note in result.notes), result.notes
    assert not any("65504" in note for note in quantized(name, random_linear(12, 32))[0].notes)


def test_one_hot_channel_makes_no_other_dead():
    """One activation of 1e7 among others of 1: the true loss counts all 64 channels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 64, generator=generator)
    x[:, 5] *= 1e7
    moment = x.T @ x / 500
    linear = random_linear(12, 64, hessian=Hessian(moment))
    assert linear.hessian.dead_channels == 0
    for name in ("rtn", "gptq", "crvq"):
        result, dense = quantized(name, linear)
        delta = (linear.weight - dense).double()
        true = float(torch.trace(delta @ moment.double() @ delta.T)) / 12
        assert result.loss == pytest.approx(true, rel=1e-3), name


def test_channels_that_are_never_active_are_dead():
    moment = torch.diag(torch.tensor([0.0, 1.0, 2.0, 1e-12, 0.0, 3.0]))
    assert Hessian(moment).dead_channels == 3
    assert Hessian(torch.zeros(4, 4)).dead_channels == 4
