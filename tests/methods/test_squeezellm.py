"""SqueezeLLM's k-means against the best partition of all, by dynamic programming."""

import pytest
import torch

from crvq.methods.scalar_params import SqueezeLlmParams
from crvq.methods.squeezellm import kept_weights
from crvq.vq.hessian import Hessian
from crvq.vq.kmeans import nearest_in_rows, row_kmeans
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def best_partition(values, cost, entries):
    """The least weighted squared error of ``entries`` intervals of sorted values: exact."""
    order = values.argsort()
    w, c = values[order].double().tolist(), cost[order].double().tolist()
    count = len(w)

    def interval(first, last):
        mass = sum(c[first:last])
        mean = sum(a * b for a, b in zip(c[first:last], w[first:last], strict=True)) / mass
        return sum(a * (b - mean) ** 2 for a, b in zip(c[first:last], w[first:last], strict=True))

    least = [0.0] + [float("inf")] * count
    for _ in range(entries):
        least = [least[0]] + [
            min(least[first] + interval(first, last) for first in range(last))
            for last in range(1, count + 1)
        ]
    return least[-1]


@pytest.mark.parametrize("entries", [1, 2, 4])
def test_values_are_near_the_best_of_all_partitions(entries):
    weight, cost = draw(8, 16), draw(8, 16, seed=1).square() + 0.01
    tables = row_kmeans(weight, cost, entries, 50)
    decoded = tables.gather(1, nearest_in_rows(weight, tables))
    losses = (cost * (weight - decoded).square()).sum(1)
    ratios = []
    for row in range(8):
        best = best_partition(weight[row], cost[row], entries)
        assert float(losses[row]) >= best * (1 - 1e-5)
        ratios.append(float(losses[row]) / best)
    assert sorted(ratios)[4] < 1.15
    if entries == 1:
        assert max(ratios) == pytest.approx(1.0, rel=1e-5)


def test_values_are_the_weighted_means_of_the_weights_nearest_to_them():
    weight, cost = draw(4, 30), draw(4, 30, seed=1).square() + 0.01
    tables = row_kmeans(weight, cost, 4, 200)
    codes = (weight[:, :, None] - tables[:, None]).abs().argmin(2)
    assert torch.equal(nearest_in_rows(weight, tables), codes)
    for row in range(4):
        for entry in range(4):
            own = codes[row] == entry
            mean = (cost[row] * weight[row])[own].sum() / cost[row][own].sum()
            assert float(tables[row, entry]) == pytest.approx(float(mean), rel=1e-4, abs=1e-5)


def test_rows_without_cost_and_rows_of_one_value():
    tables = row_kmeans(torch.full((1, 6), 0.3), torch.zeros(1, 6), 4, 10)
    torch.testing.assert_close(tables, torch.full((1, 4), 0.3))


@pytest.mark.parametrize("outliers", [0.0, 0.004, 0.3])
@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_reported_is_what_is_stored(in_features, bits, outliers):
    linear = random_linear(in_features=in_features)
    params = {"bits": bits, "outlier_ratio": outliers, "sensitive_ratio": outliers / 4}
    result = quantize("squeezellm", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("squeezellm", linear, **params)


def test_kept_are_the_most_sensitive_and_then_the_largest():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    diag_h = torch.tensor([100.0, 1.0, 1.0, 1.0])
    assert kept_weights(weight, diag_h, 0.25, 0.25).tolist() == [[True, False, False, True]]
    assert kept_weights(weight, diag_h, 0.0, 0.5).tolist() == [[True, False, False, True]]
    assert not kept_weights(weight, diag_h, 0.0, 0.0).any()


def test_with_a_diagonal_h_it_beats_a_uniform_grid_and_outliers_help():
    linear = random_linear(24, 64, hessian=Hessian(torch.logspace(-1, 1, 64).diag()))
    plain = quantize("squeezellm", linear, outlier_ratio=0, sensitive_ratio=0)
    assert plain.relative_loss < 0.8 * quantize("rtn", linear, group_size=None).relative_loss
    linear.weight[5, 7] = 40.0
    kept = quantize("squeezellm", linear, outlier_ratio=0.01).weight
    assert bool(kept.mask[5, 7])
    assert float(kept.dequantize()[5, 7]) == 40.0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 9}, "less than or equal to 8"),
        ({"outlier_ratio": -0.1}, "greater than or equal to 0"),
        ({"outlier_ratio": 0.4, "sensitive_ratio": 0.2}, "at most half of the weights"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        SqueezeLlmParams(**params)
