"""PT2-LLM and PTQTP on random linears."""

import pytest
import torch

from crvq.methods.ternary_params import Pt2LlmParams, PtqtpParams
from crvq.vq.ternary import plain_fit, similar_columns
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize

LAYOUTS = [
    ("pt2_llm", {}),
    ("pt2_llm", {"block_size": 8, "reorder": False}),
    ("pt2_llm", {"block_size": 8, "feedback_columns": 1}),
    ("pt2_llm", {"block_size": 12, "grid_alignment": False, "fit_iterations": 0}),
    ("pt2_llm", {"block_size": None}),
    ("ptqtp", {}),
    ("ptqtp", {"group_size": 8, "planes": 1}),
    ("ptqtp", {"group_size": 12, "planes": 3, "iterations": 3}),
    ("ptqtp", {"group_size": None, "error_feedback": True}),
]


@pytest.mark.parametrize(("name", "params"), LAYOUTS, ids=str)
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_reported_is_what_is_stored(name, params, in_features):
    linear = random_linear(in_features=in_features)
    result = quantize(name, linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits(name, linear, **params)
    assert result.weight.bits_as_published() == pytest.approx(1.58 * 24 * in_features)


def test_each_part_of_pt2_llm_lowers_the_loss():
    linear = random_linear(48, 64)
    base = {"block_size": 16, "reorder": False}
    plain = quantize("pt2_llm", linear, **base, grid_alignment=False, fit_iterations=0)
    fitted = quantize("pt2_llm", linear, **base, grid_alignment=False)
    aligned = quantize("pt2_llm", linear, **base)
    inside = quantize("pt2_llm", linear, **base, feedback_columns=1)
    losses = [one.relative_loss for one in (plain, fitted, aligned, inside)]
    assert losses == sorted(losses, reverse=True), losses


def test_without_errors_to_answer_scales_are_the_regression_on_the_trits():
    """One block: what is stored must be the closed form for the trits that are stored."""
    linear = random_linear(8, 16)
    params = {"block_size": None, "reorder": False, "grid_alignment": False}
    weight = quantize("pt2_llm", linear, **params).weight
    centres, scales = plain_fit(linear.weight, weight.trits[0])
    torch.testing.assert_close(weight.centres[:, 0], centres, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(weight.scales[0, :, 0], scales, rtol=1e-3, atol=1e-3)


def test_similar_columns_share_a_block():
    """Columns of two directions, mixed: each block holds one direction, the important one first."""
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(16, generator=draw), torch.randn(16, generator=draw)
    weight = torch.stack([one if c % 2 else other for c in range(8)], 1)
    weight += 0.01 * torch.randn(16, 8, generator=draw)
    importance = torch.tensor([1.0, 2, 3, 9, 4, 5, 6, 7])
    order = similar_columns(weight, importance, 4)
    assert sorted(order.tolist()) == list(range(8))
    assert order[0] == 3
    assert set(order[:4].tolist()) == {1, 3, 5, 7}
    assert order[4] == 6
    ragged = similar_columns(weight, importance, 5)
    assert sorted(ragged.tolist()) == list(range(8))


def test_reordering_is_undone():
    """With H the identity each block is fitted alone, wherever its columns come from."""
    linear = random_linear()
    weight = quantize("pt2_llm", linear, block_size=8).weight
    coded = weight.dequantize()[:, weight.order]
    group = torch.arange(32) // 8
    expected = weight.centres[:, group] + weight.scales[0][:, group] * weight.trits[0]
    torch.testing.assert_close(coded, expected)


def test_ptqtp_looks_at_no_activation_and_feedback_helps():
    linear, blind = random_linear(48, 32), random_linear(48, 32)
    object.__setattr__(blind, "hessian", random_linear(48, 32, seed=5).hessian)
    one, other = (quantize("ptqtp", x, group_size=16).weight for x in (linear, blind))
    assert torch.equal(one.dequantize(), other.dequantize())
    plain = quantize("ptqtp", linear, group_size=16)
    seeing = quantize("ptqtp", linear, group_size=16, error_feedback=True)
    assert seeing.relative_loss < 0.9 * plain.relative_loss


def test_more_planes_lose_less():
    linear = random_linear(24, 32)
    losses = [quantize("ptqtp", linear, planes=k).relative_loss for k in (1, 2, 3)]
    assert losses[1] < 0.4 * losses[0]
    assert losses[2] < 0.6 * losses[1]


@pytest.mark.parametrize(
    ("params", "values", "message"),
    [
        (Pt2LlmParams, {"block_size": 0}, "greater than or equal to 1"),
        (Pt2LlmParams, {"fit_iterations": -1}, "greater than or equal to 0"),
        (Pt2LlmParams, {"damping": 2}, "less than or equal to 1"),
        (PtqtpParams, {"planes": 4}, "less than or equal to 3"),
        (PtqtpParams, {"tolerance": 1}, "less than 1"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params, values, message):
    with pytest.raises(ValueError, match=message):
        params(**values)
