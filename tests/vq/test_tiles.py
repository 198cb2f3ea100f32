"""Tiles cover all rows once and stay within their size."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.vq.tiles import tile_elements, tiles

CPU = torch.device("cpu")


@given(count=st.integers(0, 3000), width=st.integers(0, 1 << 24))
def test_tiles_cover_each_row_once_and_are_small(count, width):
    parts = list(tiles(count, width, CPU))
    position = 0
    for part in parts:
        assert part.start == position
        assert part.stop > part.start
        assert (part.stop - part.start) * width <= tile_elements(CPU) or part.stop - part.start == 1
        position = part.stop
    assert position == count
