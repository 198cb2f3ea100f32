import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.weights.sparse_mask import mask_bytes, pack_mask, unpack_mask


def stored_bytes(tensors):
    return sum(tensor.numel() for tensor in tensors.values())


@given(st.integers(1, 9), st.integers(1, 70), st.floats(0, 1), st.integers(0, 99))
def test_a_mask_comes_back_from_as_many_bytes_as_told(out, columns, part, seed):
    mask = torch.rand(out, columns, generator=torch.Generator().manual_seed(seed)) < part
    tensors, marked = pack_mask(mask), int(mask.sum())
    assert torch.equal(unpack_mask(tensors, (out, columns), marked), mask)
    assert stored_bytes(tensors) == mask_bytes((out, columns), marked)
    assert stored_bytes(tensors) <= -(-out * columns // 8)


def test_a_few_marks_are_stored_as_places_and_many_as_a_bitmap():
    mask = torch.zeros(64, 256, dtype=torch.bool)
    mask[3, 200] = mask[60, 0] = mask[60, 255] = True
    few = pack_mask(mask)
    assert set(few) == {"numbers", "places"}
    assert stored_bytes(few) < 64 * 256 / 8 / 10
    assert set(pack_mask(~mask)) == {"bitmap"}


def test_places_that_do_not_fit_are_refused():
    mask = torch.zeros(64, 200, dtype=torch.bool)
    mask[3, 7] = True
    tensors = pack_mask(mask)
    with pytest.raises(ValueError, match="not those of 1 of"):
        unpack_mask({**tensors, "places": torch.full_like(tensors["places"], 255)}, (64, 200), 1)
