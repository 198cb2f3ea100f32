"""The kernels' layout of codes, against bits picked one by one."""

import pytest
import torch

from crvq.inference.packed_codes import (
    BLOCK,
    PADDING,
    TILE,
    code_bytes,
    pack_codes,
    padded_rows,
    unpack_codes,
)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize(("rows", "groups"), [(8, 16), (13, 37), (1, 1)])
def test_round_trip(bits, rows, groups):
    codes = torch.randint(0, 1 << bits, (rows, groups), generator=torch.Generator().manual_seed(1))
    packed = pack_codes(codes, bits)
    tiles = padded_rows(rows) // TILE
    assert len(packed) == code_bytes(rows, groups, bits)
    assert torch.equal(unpack_codes(packed, bits, groups, tiles, slice(0, tiles))[:rows], codes)
    last = unpack_codes(packed, bits, groups, tiles, slice(tiles - 1, tiles))
    assert torch.equal(last[: rows - (tiles - 1) * TILE], codes[(tiles - 1) * TILE :])


def test_every_code_lies_where_the_layout_says():
    bits, rows, groups = 11, 24, BLOCK + 5
    codes = torch.randint(0, 1 << bits, (rows, groups))
    stream = int.from_bytes(bytes(pack_codes(codes, bits).tolist()), "little")
    for row in (0, 7, 8, 23):
        for group in (0, BLOCK - 1, BLOCK, groups - 1):
            start = group // BLOCK * BLOCK
            block = min(BLOCK, groups - start)
            place = start * (rows // TILE) + row // TILE * block + (group - start)
            at = place * TILE * bits + row % TILE * bits
            assert stream >> at & ((1 << bits) - 1) == codes[row, group]


def test_whole_tiles_take_no_more_than_their_bits():
    assert code_bytes(4096, 512, 6) == 4096 * 512 * 6 // 8 + PADDING


@pytest.mark.parametrize("bits", [0, 17])
def test_other_widths_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 16"):
        pack_codes(torch.zeros(8, 2, dtype=torch.int64), bits)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit 3 bits"):
        pack_codes(torch.full((8, 2), 8), 3)
