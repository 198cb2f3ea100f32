import itertools

import pytest
import torch

from crvq.weights import FormatError, unpack_weight
from crvq.weights.row_lookup import RowLookupWeight


def weight_of(out=5, columns=11, bits=2, sparse=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(out * columns, dtype=torch.bool)
    mask[torch.randperm(out * columns, generator=draw)[:sparse]] = True
    mask = mask.view(out, columns)
    codes = torch.randint(0, 2**bits, (out, columns), generator=draw)
    tables = torch.randn(out, 2**bits, generator=draw).half().float()
    kept = torch.randn(sparse, generator=draw).half().float()
    return RowLookupWeight(codes, tables, mask, kept)


@pytest.mark.parametrize("sparse", [0, 1, 6, 40])
def test_each_weight_decodes_by_its_definition_and_comes_back(sparse):
    weight = weight_of(sparse=sparse)
    values, kept = weight.dequantize(), iter(weight.kept.tolist())
    for row, column in itertools.product(range(5), range(11)):
        expected = float(weight.tables[row, weight.codes[row, column]])
        if weight.mask[row, column]:
            expected = next(kept)
        assert float(values[row, column]) == expected
    restored = unpack_weight(weight.header(), weight.pack(), {})
    assert torch.equal(restored.dequantize(), values)


def test_bits_by_hand():
    """55 codes of 2 bits; 5 tables of 4; 6 values, and a bitmap of 55 (smaller than places?)."""
    bits = weight_of().bits()
    places = 8 * (3 + 3)  # 5 numbers of 4 bits, 6 places of 4 bits: less than 7 bytes of bitmap
    assert (bits.codes, bits.codebooks, bits.other) == (8 * 14 + places, 16 * 20, 16 * 6)
    assert weight_of().bits_as_published() == 110


def test_a_mask_that_contradicts_the_header_is_refused():
    weight = weight_of(sparse=40)
    tensors = weight.pack()
    wrong = {**tensors, "bitmap": torch.zeros_like(tensors["bitmap"])}
    with pytest.raises(FormatError, match="marks 0 weights; the header says 40"):
        unpack_weight(weight.header(), wrong, {})
