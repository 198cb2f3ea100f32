"""Bit-packed codes in the order in which the kernels of the quantized linear read them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits

TILE = 8
"""Out features of a tile: their codes of one group take exactly ``bits`` bytes, at any width."""
BLOCK = 16
"""Groups of a block: 16 tables of 256 products are half of the smallest L1 cache."""
PADDING = 16
"""Zero bytes at the end, so that kernels may load the last codes as whole 64-bit words."""


def padded_rows(out_features: int) -> int:
    """Out features rounded up to whole tiles."""
    return -(-out_features // TILE) * TILE


def code_bytes(out_features: int, groups: int, bits: int) -> int:
    """Bytes that `pack_codes` returns."""
    return packed_bytes(padded_rows(out_features) * groups, bits) + PADDING


def _blocks(groups: int) -> Iterator[tuple[int, int]]:
    """First group and number of groups of each block; only the last one can be shorter."""
    for start in range(0, groups, BLOCK):
        yield start, min(BLOCK, groups - start)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes as ``[block of groups][tile of out features][group][8 codes of bits bits]``.

    A block of groups is one stream of memory whose tables fit the L1 cache, and a tile's sums stay
    in registers from the first group of a block to the last.

    Args:
        codes: ``(out, groups)``, each below ``2**bits``.
        bits: 1 to 16.

    Returns:
        uint8; out features are padded with zeros to whole tiles.

    Raises:
        ValueError: a code does not fit.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"codes of {bits} bits cannot be packed: 1 to 16 bits are possible")
    rows, groups = codes.shape
    tiled = functional.pad(codes, (0, 0, 0, padded_rows(rows) - rows)).view(-1, TILE, groups)
    parts = [
        pack_bits(tiled[:, :, start : start + count].transpose(1, 2), bits)
        for start, count in _blocks(groups)
    ]
    return torch.cat([*parts, torch.zeros(PADDING, dtype=torch.uint8, device=codes.device)])


def unpack_codes(packed: Tensor, bits: int, groups: int, tiles: int, part: slice) -> Tensor:
    """Read back the codes of some tiles.

    Args:
        packed: from `pack_codes`.
        bits: width of a code.
        groups: of in features.
        tiles: all tiles of out features.
        part: tiles to read.

    Returns:
        int64 ``(8 * tiles of the part, groups)``.
    """
    first, last, _ = part.indices(tiles)
    rows = []
    for start, count in _blocks(groups):
        size = count * bits
        at = start * tiles * bits + first * size
        words = packed[at : at + (last - first) * size]
        values = unpack_bits(words, bits, (last - first, count, TILE))
        rows.append(values.transpose(1, 2).reshape(-1, count))
    return torch.cat(rows, 1)
