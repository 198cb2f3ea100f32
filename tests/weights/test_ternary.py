import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.weights import FormatError, unpack_weight
from crvq.weights.bitpack import pack_trits, trit_bytes, unpack_trits
from crvq.weights.ternary import TernaryWeight


def weight_of(planes=2, out=5, columns=11, group=4, centred=True, reordered=True, seed=0):
    draw = torch.Generator().manual_seed(seed)
    groups = -(-columns // group)
    return TernaryWeight(
        group_size=group,
        trits=torch.randint(-1, 2, (planes, out, columns), generator=draw, dtype=torch.int8),
        scales=torch.randn(planes, out, groups, generator=draw).half().float(),
        centres=torch.randn(out, groups, generator=draw).half().float() if centred else None,
        order=torch.randperm(columns, generator=draw) if reordered else None,
    )


def test_every_five_trits_have_their_own_byte_and_come_back():
    """All 243 of them, against base-3 digits by hand."""
    every = torch.tensor(list(itertools.product((-1, 0, 1), repeat=5)), dtype=torch.int8)
    packed = pack_trits(every)
    by_hand = [sum((int(t) + 1) * 3**place for place, t in enumerate(row)) for row in every]
    assert packed.tolist() == by_hand
    assert sorted(by_hand) == list(range(243))
    assert torch.equal(unpack_trits(packed, (243, 5)), every)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 99))
def test_any_number_of_trits_comes_back(count, seed):
    draw = torch.Generator().manual_seed(seed)
    trits = torch.randint(-1, 2, (count,), generator=draw, dtype=torch.int8)
    packed = pack_trits(trits)
    assert len(packed) == trit_bytes(count) == (count + 4) // 5
    assert torch.equal(unpack_trits(packed, (count,)), trits)


def test_what_is_no_trit_is_refused():
    with pytest.raises(ValueError, match="from -1 to 2"):
        pack_trits(torch.tensor([-1, 2]))
    weight = weight_of()
    tensors = weight.pack()
    wrong = {**tensors, "trits": torch.full_like(tensors["trits"], 243)}
    with pytest.raises(FormatError, match="trits: holds 243; the largest is 242"):
        unpack_weight(weight.header(), wrong, {})


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("reordered", [False, True])
def test_each_weight_decodes_by_its_definition(centred, reordered):
    weight = weight_of(centred=centred, reordered=reordered)
    values = weight.dequantize()
    for row, place in itertools.product(range(5), range(11)):
        column = int(weight.order[place]) if reordered else place
        group = row, place // 4
        expected = float(weight.centres[group]) if centred else 0.0
        for plane in range(2):
            expected += float(weight.scales[plane][group]) * int(weight.trits[plane, row, place])
        assert float(values[row, column]) == pytest.approx(expected, abs=1e-6)


def test_bits_by_hand():
    """2 x 5 x 11 trits in 22 bytes; 2 x 5 x 3 scales and 5 x 3 centres; 11 places of 4 bits."""
    bits = weight_of().bits()
    assert (bits.codes, bits.scales, bits.permutation) == (22 * 8, 45 * 16, 48)
    large = weight_of(1, 64, 640, 128, reordered=False).bits()
    assert large.codes / (64 * 640) == 1.6
    assert large.scales / (64 * 640) == 0.25
