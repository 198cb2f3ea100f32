"""The mask of a few weights: a bitmap, or places where that is smaller."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.weights.fields import FormatError
from crvq.weights.partial_binary import mask_fields, mask_from_values, mask_values


def stored(mask):
    fields, values = mask_fields(tuple(mask.shape), int(mask.sum())), mask_values(mask)
    return {field.name: (field, field.pack(values[field.name])) for field in fields}


def read(parts, shape, marked):
    values = {name: field.unpack(tensor) for name, (field, tensor) in parts.items()}
    return mask_from_values(values, shape, marked)


@given(st.integers(1, 9), st.integers(1, 70), st.floats(0, 1), st.integers(0, 99))
def test_a_mask_comes_back_from_as_many_bytes_as_declared(out, columns, part, seed):
    mask = torch.rand(out, columns, generator=torch.Generator().manual_seed(seed)) < part
    parts = stored(mask)
    assert torch.equal(read(parts, (out, columns), int(mask.sum())), mask)
    assert sum(field.stored_bytes for field, _ in parts.values()) <= -(-out * columns // 8)


def test_a_few_marks_are_stored_as_places_and_many_as_a_bitmap():
    mask = torch.zeros(64, 256, dtype=torch.bool)
    mask[3, 200] = mask[60, 0] = mask[60, 255] = True
    few = stored(mask)
    assert set(few) == {"numbers", "places"}
    assert sum(len(tensor) for _, tensor in few.values()) < 64 * 256 / 8 / 10
    assert set(stored(~mask)) == {"bitmap"}


def test_places_that_do_not_fit_are_refused():
    mask = torch.zeros(64, 200, dtype=torch.bool)
    mask[3, 7] = True
    parts = stored(mask)
    field, tensor = parts["places"]
    with pytest.raises(FormatError, match="places: holds 255"):
        read({**parts, "places": (field, torch.full_like(tensor, 255))}, (64, 200), 1)
    field, tensor = parts["numbers"]
    with pytest.raises(FormatError, match="numbers: add up to 0"):
        read({**parts, "numbers": (field, torch.zeros_like(tensor))}, (64, 200), 1)
