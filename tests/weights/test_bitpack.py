import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.weights import bitpack
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits


def packed_one_by_one(values, width):
    """All bits as one big integer, least significant first."""
    number = 0
    for place, value in enumerate(values):
        number |= value << (place * width)
    return list(number.to_bytes((len(values) * width + 7) // 8, "little"))


@st.composite
def integers_of_a_width(draw):
    width = draw(st.integers(0, 31))
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    count = torch.Size(shape).numel()
    values = draw(
        st.lists(st.integers(0, max(0, (1 << width) - 1)), min_size=count, max_size=count)
    )
    return width, shape, values


@settings(max_examples=150, deadline=None)
@given(case=integers_of_a_width(), chunk=st.sampled_from([8, 16, 1 << 20]))
def test_packs_as_one_big_integer_and_comes_back(case, chunk):
    width, shape, values = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitpack, "_CHUNK", chunk)
        packed = pack_bits(torch.tensor(values, dtype=torch.int64).view(shape), width)
        assert packed.dtype == torch.uint8
        assert packed.tolist() == packed_one_by_one(values, width)
        assert len(packed) == packed_bytes(len(values), width)
        restored = unpack_bits(packed, width, shape)
    assert restored.shape == shape
    assert restored.dtype == torch.int64
    assert restored.flatten().tolist() == values


@pytest.mark.parametrize("width", [1, 3, 5, 11, 31])
@pytest.mark.parametrize("count", [15, 16, 17, 32, 33])
def test_chunk_borders(monkeypatch, width, count):
    values = torch.randint(
        0, 1 << width, (count,), generator=torch.Generator().manual_seed(count * width)
    )
    whole = pack_bits(values, width)
    monkeypatch.setattr(bitpack, "_CHUNK", 16)
    assert torch.equal(pack_bits(values, width), whole)
    assert torch.equal(unpack_bits(whole, width, (count,)), values)


@pytest.mark.parametrize(("values", "width"), [([4], 2), ([-1], 5), ([1], 0), ([256], 8)])
def test_values_that_do_not_fit_are_refused(values, width):
    with pytest.raises(ValueError, match=f"do not fit {width} bits"):
        pack_bits(torch.tensor(values), width)


@pytest.mark.parametrize("width", [-1, 32])
def test_widths_that_cannot_be_packed(width):
    with pytest.raises(ValueError, match="0 to 31"):
        pack_bits(torch.tensor([0]), width)


@pytest.mark.parametrize("width", [0, 5, 8])
def test_a_wrong_number_of_bytes_is_refused(width):
    packed = torch.zeros(packed_bytes(10, width) + 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"10 values of {width} bits"):
        unpack_bits(packed, width, (2, 5))
