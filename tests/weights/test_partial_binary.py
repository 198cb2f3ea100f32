import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.weights import unpack_weight
from crvq.weights.partial_binary import PartialBinaryWeight


def weight_of(out=5, columns=11, group=4, bits=8, salient=0.3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = out, columns
    chosen = torch.rand(shape, generator=draw) < salient
    return PartialBinaryWeight(
        salient_bits=bits,
        group_size=group,
        salient=chosen,
        signs=(torch.rand(shape, generator=draw) < 0.5) & ~chosen,
        codes=torch.randint(2**bits, shape, generator=draw) * chosen,
        scales=torch.rand(out, -(-columns // group), generator=draw).half().float(),
        steps=torch.rand(out, generator=draw).half().float(),
        zeros=torch.randint(2**bits, (out,), generator=draw),
    )


def test_each_weight_decodes_by_its_definition():
    weight = weight_of()
    values = weight.dequantize()
    for row in range(5):
        for column in range(11):
            if weight.salient[row, column]:
                steps = int(weight.codes[row, column]) - int(weight.zeros[row])
                expected = steps * float(weight.steps[row])
            else:
                sign = 1 if weight.signs[row, column] else -1
                expected = sign * float(weight.scales[row, column // 4])
            assert float(values[row, column]) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_it_comes_back_from_its_tensors_whose_bytes_are_its_bits(
    out, columns, group, bits, salient
):
    weight = weight_of(out, columns, group, bits, salient)
    tensors = weight.pack()
    restored = unpack_weight(weight.header(), tensors, {})
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert restored.bits() == weight.bits()
    assert weight.bits().total == 8 * sum(t.numel() * t.element_size() for t in tensors.values())


def test_the_authors_count_no_mask_and_no_scales():
    weight = weight_of(salient=0.1)
    salient = int(weight.salient.sum())
    assert weight.bits_as_published() == 8 * salient + (55 - salient)
    assert weight.bits().total > weight.bits_as_published() + 55
