import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian
from crvq.vq.uniform_grid import GridColumns, fit_grid
from tests.vq.coded_examples import second_moment


def plain_gptq(weight, h, bits, group_size, damping=0.01):
    """GPTQ by elimination from an explicit inverse, float64: no Cholesky factor, no blocks."""
    w, h = weight.double().clone(), h.double()
    inverse = torch.linalg.inv(h + damping * h.diagonal().mean() * torch.eye(len(h)))
    result = torch.empty_like(w)
    for j in range(w.shape[1]):
        if j % group_size == 0:
            steps, zeros = fit_grid(w[:, j : j + group_size].float(), bits)
        codes = ((w[:, j] / steps).round() + zeros).clamp(0, 2**bits - 1)
        result[:, j] = (codes - zeros) * steps
        error = (w[:, j] - result[:, j]) / inverse[j, j]
        w[:, j:] -= error[:, None] * inverse[j, j:]
        inverse = inverse - inverse[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
    return result


def ours(weight, h, bits, group_size, block_columns=128):
    factor = Hessian(h).feedback_factor(torch.arange(len(h)))
    columns = GridColumns(tuple(weight.shape), bits, group_size, weight.device)
    return quantize_columns(weight, columns, factor, block_columns)


def random_weight(out, columns, seed=0):
    return torch.randn(out, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block_columns", [1, 5, 128])
@pytest.mark.parametrize("group_size", [4, 7, 24])
@pytest.mark.parametrize("bits", [2, 4])
def test_it_is_gptq(bits, group_size, block_columns):
    weight, h = random_weight(6, 24), second_moment(24, 3)
    expected = plain_gptq(weight, h, bits, group_size)
    actual = ours(weight, h, bits, group_size, block_columns)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("width", "span"), [(5, 5), (5, 10), (7, 14)])
def test_last_columns_may_be_fewer_than_the_width(width, span):
    weight, h = random_weight(4, 24), second_moment(24, 5)
    zeros = Zeros(width, span)
    quantize_columns(weight, zeros, Hessian(h).feedback_factor(torch.arange(24)))
    damped = h.double() + 0.01 * h.double().diagonal().mean() * torch.eye(24)
    exact = float(torch.trace(weight.double() @ damped @ weight.double().T))
    assert zeros.cost == pytest.approx(exact, rel=1e-3)
    assert zeros.rounded[-1][1] == 24


def test_feedback_beats_rounding_where_channels_are_correlated():
    weight, h = random_weight(32, 24), second_moment(24, 3, condition=1000.0)
    plain = quantize_columns(weight, GridColumns((32, 24), 3, 24, weight.device), None)

    def loss(result):
        return float(torch.trace((weight - result) @ h @ (weight - result).T))

    assert loss(ours(weight, h, 3, 24)) < 0.8 * loss(plain)


def test_without_correlation_feedback_is_plain_rounding():
    weight = random_weight(5, 12)
    plain = quantize_columns(weight, GridColumns((5, 12), 3, 4, weight.device), None)
    assert torch.equal(ours(weight, torch.eye(12), 3, 4), plain)


class Zeros:
    """Rounds everything to zero, ``width`` columns together, and keeps what it was told."""

    def __init__(self, width, span):
        self.width, self.span = width, span
        self.started, self.rounded, self.cost = [], [], 0.0

    def start(self, columns, weight):
        self.started.append((columns.start, columns.stop))

    def quantize(self, columns, weight, metric):
        self.rounded.append((columns.start, columns.stop))
        self.cost += float(((weight @ metric) * weight).sum())
        return torch.zeros_like(weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9))
def test_costs_of_groups_add_up_to_the_damped_loss(width, per_span, spans, block_columns):
    """``Σ_g ‖e_g U_gg⁻¹‖² = tr(W H Wᵀ)`` when all of W is lost, whatever the widths and blocks."""
    columns = width * per_span * spans
    weight, h = random_weight(4, columns), second_moment(columns, 5)
    zeros = Zeros(width, width * per_span)
    factor = Hessian(h).feedback_factor(torch.arange(columns))
    quantize_columns(weight, zeros, factor, block_columns)
    damped = h.double() + 0.01 * h.double().diagonal().mean() * torch.eye(columns)
    exact = float(torch.trace(weight.double() @ damped @ weight.double().T))
    assert zeros.cost == pytest.approx(exact, rel=1e-3)
    assert zeros.started == [(a, a + width * per_span) for a in range(0, columns, zeros.span)]
    assert zeros.rounded == [(a, a + width) for a in range(0, columns, width)]
