import pytest
import torch

from crvq.vq.gptq import quantize_columns
from crvq.vq.grouped_codebooks import PatchLayout, decode_patches
from crvq.vq.hessian import Hessian
from crvq.vq.patch_columns import PatchColumns
from crvq.vq.uniform_grid import fit_grid, grid_values
from tests.vq.coded_examples import second_moment
from tests.vq.test_gptq import plain_gptq, random_weight


class GivenCodebooks(PatchColumns):
    """Rounds to codebooks ``(strips * bands, entries, d)`` that are not fitted."""

    def __init__(self, layout, cost, codebooks):
        super().__init__(layout, cost, codebooks.shape[1], iterations=0)
        self._given = codebooks

    def _fit_codebooks(self, columns, weight):
        return self._given[self._own]


@pytest.mark.parametrize("bits", [2, 3])
def test_with_one_column_and_a_uniform_grid_it_is_gptq(bits):
    weight, h = random_weight(6, 20), second_moment(20, 3)
    steps, zeros = fit_grid(weight, bits)
    grids = grid_values(torch.arange(2**bits).expand(6, -1), steps[:, None], zeros[:, None])
    layout = PatchLayout(out_features=6, in_features=20, width=1, columns=20, rows=1)
    columns = GivenCodebooks(layout, torch.ones(20), grids[:, :, None])
    factor = Hessian(h).feedback_factor(torch.arange(20))
    actual = quantize_columns(weight, columns, factor)
    expected = plain_gptq(weight, h, bits, group_size=20)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale_block", [None, 4])
def test_what_is_returned_is_what_codes_and_codebooks_say(scale_block):
    weight, h = random_weight(7, 20), second_moment(20, 3)
    layout = PatchLayout(out_features=7, in_features=20, width=2, columns=8, rows=3)
    columns = PatchColumns(layout, torch.ones(20), 4, 5, scale_block)
    factor = Hessian(h).feedback_factor(torch.arange(20))
    values = quantize_columns(weight, columns, factor)
    index = layout.codebook_index(weight.device)
    decoded = decode_patches(columns.codebooks, columns.codes, index)
    if columns.scales is not None:
        decoded = decoded * columns.scales
    assert torch.equal(values, decoded)


def test_each_vector_takes_the_cheapest_entry_in_the_metric():
    weight = random_weight(5, 2)
    layout = PatchLayout(out_features=5, in_features=2, width=2, columns=2, rows=3)
    codebooks = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1))
    columns = GivenCodebooks(layout, torch.ones(2), codebooks)
    metric = torch.tensor([[2.0, 1.5], [1.5, 3.0]])
    columns.start(slice(0, 2), weight)
    values = columns.quantize(slice(0, 2), weight, metric)
    for row in range(5):
        gap = (weight[row] - codebooks[row // 3]).double()
        costs = ((gap @ metric.double()) * gap).sum(1)
        assert int(columns.codes[row, 0]) == int(costs.argmin())
        assert torch.equal(values[row], codebooks[row // 3, costs.argmin()])
