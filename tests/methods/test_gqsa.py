"""GQSA: which groups are kept, and that the result is GPTQ where none is pruned."""

import pytest
import torch

from crvq.methods.gqsa import kept_groups
from crvq.weights import FormatError, unpack_weight
from crvq.weights.sparse_groups import SparseGroupsWeight
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import check_result, planned_bits, quantize


def groups_weight():
    draw = torch.Generator().manual_seed(0)
    kept = torch.tensor([[True, False, True], [False, True, False]])
    codes = torch.randint(0, 8, (3, 4), generator=draw)
    steps, zeros = torch.rand(3, generator=draw).half().float() + 0.5, torch.tensor([0, 4, 7])
    return SparseGroupsWeight(10, 3, kept, codes, steps.half().float(), zeros)


def test_each_weight_decodes_by_its_definition_and_bits_by_hand():
    weight, group = groups_weight(), -1
    for row in range(2):
        for column in range(10):
            expected = 0.0
            if weight.kept[row, column // 4]:
                group = int(weight.kept.flatten()[: 3 * row + column // 4].sum())
                code = int(weight.codes[group, column % 4]) - int(weight.zeros[group])
                expected = code * float(weight.steps[group])
            assert float(weight.dequantize()[row, column]) == pytest.approx(expected)
    bits = weight.bits()
    assert (bits.other, bits.codes, bits.scales) == (8, 8 * 5, 16 * 3 + 8 * 2)


def test_a_bitmap_that_contradicts_the_header_is_refused():
    weight, tensors = groups_weight(), groups_weight().pack()
    wrong = {**tensors, "kept": torch.zeros_like(tensors["kept"])}
    with pytest.raises(FormatError, match="marks 0 groups, header: 3"):
        unpack_weight(weight.header(), wrong, {})


def test_kept_are_the_groups_with_the_largest_sums():
    saliency = torch.tensor([[1.0, 1, 5, 0, 3], [0, 0, 2, 2, 9]])
    assert kept_groups(saliency, 2, 0.5).tolist() == [[False, True, False], [False, True, True]]
    assert kept_groups(saliency, 2, 0.0).all()


def test_without_sparsity_it_is_gptq():
    linear = random_linear()
    gptq = quantize("gptq", linear, bits=4, group_size=16).weight.dequantize()
    assert torch.equal(quantize("gqsa", linear, sparsity=0).weight.dequantize(), gptq)


@pytest.mark.parametrize("in_features", [32, 30])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_what_is_reported_is_what_is_stored(in_features, sparsity):
    linear = random_linear(in_features=in_features)
    params = {"group_size": 8, "sparsity": sparsity}
    result = quantize("gqsa", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("gqsa", linear, **params)
    left_out = (result.weight.dequantize() == 0).float().mean()
    assert float(left_out) >= sparsity - 0.1
