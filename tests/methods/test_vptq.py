"""VPTQ against brute force over all codes, and against what it is without its parts."""

import itertools

import pytest
import torch

from crvq.methods import LinearInput
from crvq.methods.vector_params import VptqParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian
from crvq.vq.output_vectors import OutputVectorColumns, from_output_vectors, output_vectors
from tests.methods.linear_examples import random_linear, relative_loss, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize

QUICK = {"codebook_bits": 3, "kmeans_iterations": 5, "update_steps": 5}
LAYOUTS = [
    {"vector_size": 4},
    {"vector_size": 8, "residual_bits": 2},
    {"vector_size": 1, "codebook_bits": 2},
    {"vector_size": 2, "outlier_ratio": 0.1, "outlier_bits": 4},
    {"vector_size": 2, "outlier_ratio": 0.1, "outlier_vector_size": 1, "residual_bits": 3},
    {"vector_size": 16, "codebook_bits": 12},  # more entries than vectors
]


@pytest.mark.parametrize("params", LAYOUTS, ids=str)
@pytest.mark.parametrize("out_features", [24, 21])
def test_what_is_reported_is_what_is_stored(out_features, params):
    linear = random_linear(out_features, 30)
    result = quantize("vptq", linear, **{**QUICK, **params})
    check_result(result)
    assert result.weight.bits() == planned_bits("vptq", linear, **{**QUICK, **params})
    padded = any("rows are padding" in note for note in result.notes)
    assert padded == bool(out_features % params["vector_size"])


def test_output_vectors_are_rows_of_one_column():
    weight = torch.arange(21.0).view(7, 3)
    vectors = output_vectors(weight, 4)
    assert vectors[0, 1].tolist() == [1, 4, 7, 10]
    assert vectors[1, 2].tolist() == [14, 17, 20, 0]
    assert torch.equal(from_output_vectors(vectors, 7), weight)


def test_with_a_diagonal_h_the_codes_are_the_best_of_all():
    """No column can answer another's error, so brute force over all code tables must agree."""
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 3, generator=draw)
    codebook = torch.randn(3, 2, generator=draw)
    h = torch.diag(torch.tensor([1.0, 5.0, 0.2]))
    columns = OutputVectorColumns([codebook], 4, 3)
    factor = Hessian(h, 0.01).feedback_factor(torch.arange(3))
    found = quantize_columns(weight, columns, factor)
    best = None
    for codes in itertools.product(range(3), repeat=6):
        table = torch.tensor(codes).view(2, 3)
        error = weight - from_output_vectors(codebook[table], 4)
        loss = float(torch.trace(error @ h @ error.T))
        best = min(best or (loss, table), (loss, table), key=lambda one: one[0])
    assert torch.equal(columns.codes[0], best[1])
    assert torch.equal(found, from_output_vectors(codebook[best[1]], 4))


def test_a_columns_error_is_answered_by_the_best_change_of_later_columns():
    """Against the closed form: later columns minimize the loss given the error made so far."""
    h, weight = second_moment(5), torch.randn(4, 5)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(5)
    seen = []

    class Watched(OutputVectorColumns):
        def quantize(self, columns, weight, metric):
            seen.append(weight.clone())
            return super().quantize(columns, weight, metric)

    codebook = torch.randn(4, 2)
    factor = Hessian(h, 0.01).feedback_factor(torch.arange(5))
    value = quantize_columns(weight, Watched([codebook], 4, 5), factor)
    error = (weight - value)[:, :2]
    # min over d of [e d] H [e d]ᵀ: d = -e H_er H_rr⁻¹ and the weight still to code is w - d.
    answer = -error @ damped[:2, 2:] @ torch.linalg.inv(damped[2:, 2:])
    torch.testing.assert_close(seen[2][:, 0], weight[:, 2] - answer[:, 0], rtol=1e-3, atol=1e-3)


def test_a_residual_codebook_codes_what_the_main_one_leaves():
    linear = random_linear(48, 32)
    plain = quantize("vptq", linear, vector_size=4, codebook_bits=4)
    more = quantize("vptq", linear, vector_size=4, codebook_bits=4, residual_bits=4)
    assert more.relative_loss < 0.6 * plain.relative_loss
    weight = more.weight
    without = weight.dequantize() - from_output_vectors(
        weight.residual_codebook[weight.residual_codes], 48
    )
    assert torch.equal(without, from_output_vectors(weight.codebook[weight.codes], 48))


def test_the_hottest_columns_are_the_outliers():
    diag_h = torch.ones(32)
    diag_h[[3, 17]] = 1000.0
    linear = random_linear(hessian=Hessian(diag_h.diag()))
    result = quantize("vptq", linear, **QUICK, outlier_ratio=2 / 32, outlier_bits=8)
    assert result.weight.outlier.nonzero()[:, 0].tolist() == [3, 17]
    plain = quantize("vptq", linear, **QUICK)
    assert result.relative_loss < 0.5 * plain.relative_loss


def test_feedback_and_codebook_update_each_lower_the_loss():
    linear = random_linear(48, 32)
    h = linear.hessian.matrix
    alone = LinearInput(**{**vars(linear), "hessian": Hessian(h.diagonal().diag())})
    blind = quantize("vptq", alone, **{**QUICK, "update_steps": 0})
    seeing = quantize("vptq", linear, **{**QUICK, "update_steps": 0})
    updated = quantize("vptq", linear, **{**QUICK, "update_steps": 20})
    assert seeing.relative_loss < 0.9 * relative_loss(linear, blind.weight.dequantize())
    assert updated.relative_loss < 0.98 * seeing.relative_loss
    assert torch.equal(updated.weight.codes, seeing.weight.codes)


def test_one_seed_one_result():
    linear = random_linear()
    one, other = (quantize("vptq", linear, **QUICK).weight.dequantize() for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"vector_size": 3}, "Input should be 1, 2, 4, 8 or 16"),
        ({"codebook_bits": 17}, "less than or equal to 16"),
        ({"residual_bits": -1}, "greater than or equal to 0"),
        ({"outlier_ratio": 1.0}, "less than 1"),
        ({"vector_size": 1, "codebook_bits": 9, "residual_bits": 2}, "set residual_bits=0"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        VptqParams(**params)
