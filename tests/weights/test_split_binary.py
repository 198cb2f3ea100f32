import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.weights import unpack_weight
from crvq.weights.split_binary import SplitBinaryWeight


def weight_of(out=5, columns=11, block=4, salient=0.3, splitting=True, centred=True, seed=0):
    """Random parts; what is not stored is zero, as the quantizer leaves it."""
    draw = torch.Generator().manual_seed(seed)
    shape, blocks = (out, columns), -(-columns // block)
    chosen = torch.rand(columns, generator=draw) < salient
    signs, second, sparse = (torch.rand(shape, generator=draw) < 0.5 for _ in range(3))
    return SplitBinaryWeight(
        block=block,
        salient=chosen,
        signs=signs,
        second_signs=second & chosen,
        sparse=sparse & ~chosen if splitting else None,
        scales=torch.rand(out, blocks, 4, generator=draw).half().float(),
        centres=torch.rand(out, blocks, 3, generator=draw).half().float() if centred else None,
    )


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("splitting", [False, True])
def test_each_weight_decodes_by_its_definition(splitting, centred):
    weight = weight_of(splitting=splitting, centred=centred)
    values = weight.dequantize()
    for row in range(5):
        for column in range(11):
            scales = weight.scales[row, column // 4].tolist()
            sign = 1 if weight.signs[row, column] else -1
            group = 2 if weight.salient[column] else int(splitting and weight.sparse[row, column])
            expected = sign * scales[group]
            if group == 2:
                expected += (1 if weight.second_signs[row, column] else -1) * scales[3]
            if centred:
                expected += float(weight.centres[row, column // 4, group])
            assert float(values[row, column]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 20),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_it_comes_back_from_its_tensors_whose_bytes_are_its_bits(
    out, columns, block, salient, splitting, centred
):
    weight = weight_of(out, columns, block, salient, splitting, centred)
    tensors = weight.pack()
    restored = unpack_weight(weight.header(), tensors, {})
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert restored.bits() == weight.bits()
    assert weight.bits().total == 8 * sum(t.numel() * t.element_size() for t in tensors.values())


def test_the_authors_count_two_bits_for_salient_weights_and_one_for_others():
    weight = weight_of(out=3, columns=10, salient=0.4)
    salient = int(weight.salient.sum())
    assert weight.bits_as_published() == 3 * (2 * salient + (10 - salient))
    assert weight.bits().total > 2 * weight.bits_as_published()
