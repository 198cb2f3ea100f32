import pytest
import torch

from crvq.weights import unpack_weight
from crvq.weights.uniform import UniformWeight


def weight_of(bits=3, group_size=4, shape=(5, 10), reordered=False, seed=0):
    draw = torch.Generator().manual_seed(seed)
    groups = -(-shape[1] // group_size)
    return UniformWeight(
        code_bits=bits,
        group_size=group_size,
        codes=torch.randint(2**bits, shape, generator=draw),
        steps=torch.rand(shape[0], groups, generator=draw).half().float(),
        zeros=torch.randint(2**bits, (shape[0], groups), generator=draw),
        order=torch.randperm(shape[1], generator=draw) if reordered else None,
    )


@pytest.mark.parametrize("reordered", [False, True])
def test_each_weight_decodes_by_its_definition(reordered):
    weight = weight_of(reordered=reordered)
    values = weight.dequantize()
    order = weight.order if reordered else torch.arange(10)
    for row in range(5):
        for place in range(10):
            group = place // 4
            code, zero = int(weight.codes[row, place]), int(weight.zeros[row, group])
            expected = (code - zero) * float(weight.steps[row, group])
            assert float(values[row, order[place]]) == pytest.approx(expected)


@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(5, 10), (1, 1), (3, 8)], ids=str)
def test_it_comes_back_from_its_tensors_whose_bytes_are_its_bits(shape, bits, reordered):
    weight = weight_of(bits, shape=shape, reordered=reordered)
    tensors = weight.pack()
    restored = unpack_weight(weight.header(), tensors, {})
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert restored.bits() == weight.bits()
    assert weight.bits().total == 8 * sum(t.numel() * t.element_size() for t in tensors.values())
    assert (weight.bits().permutation > 0) == (reordered and shape[1] > 1)
