"""Products by look-up tables in numba, for machines without a C++ compiler."""

# ruff: noqa: ANN001, ANN202 - arguments of compiled functions are arrays, which numba types
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from crvq.inference.native import kernels_wanted
from crvq.inference.packed_codes import BLOCK, PADDING, TILE
from crvq.inference.packed_linear import PackedLinear


@cache
def _numba() -> ModuleType | None:
    """Return the module, unless it is not installed or not wanted."""
    if kernels_wanted() == "torch":
        return None
    try:
        import numba
    except ImportError:
        return None
    return numba


def serves(linear: PackedLinear) -> bool:
    """Return whether these kernels take this linear: tables of wider codes outgrow every cache."""
    on_cpu = linear.scales.device.type == "cpu"
    return on_cpu and max(linear.bits) <= 12 and _numba() is not None


def pays(linear: PackedLinear, tokens: int) -> bool:
    """Whether `multiply`, one token at a time, is faster than decoding: decoding here is slow."""
    return tokens <= 4


@cache
def _kernel() -> Callable[..., None]:
    """Compile the loop over tiles of out features; each thread adds into its own tiles."""
    numba = _numba()
    assert numba is not None

    @numba.njit(parallel=True, nogil=True)
    def add_looked_up(codes, tables, sums, bits, tiles):
        groups = tables.shape[0]
        mask = (1 << bits) - 1
        for tile in numba.prange(tiles):
            for start in range(0, groups, BLOCK):
                block = min(BLOCK, groups - start)
                row = (start * tiles + tile * block) * bits
                for j in range(TILE):
                    at = row + (j * bits >> 3)
                    shift = j * bits & 7
                    total = sums[tile * TILE + j]
                    for g in range(block):
                        here = at + g * bits
                        word = numba.uint32(codes[here]) >> shift
                        if shift + bits > 8:
                            word |= numba.uint32(codes[here + 1]) << (8 - shift)
                        if shift + bits > 16:
                            word |= numba.uint32(codes[here + 2]) << (16 - shift)
                        total += tables[start + g, word & mask]
                    sums[tile * TILE + j] = total

    return add_looked_up


def multiply(linear: PackedLinear, x: Tensor) -> Tensor:
    """Multiply tokens ``(tokens, in)`` in natural order, bias included: float32 ``(tokens, out)``.

    A table holds the products of one group's inputs with every entry of a codebook.
    """
    numba, kernel = _numba(), _kernel()
    assert numba is not None
    # Tables have 2^bits columns, so that no code of a damaged file can point outside of them.
    entries = [
        functional.pad(book, (0, 0, 0, (1 << bits) - len(book))).t()
        for book, bits in (
            (linear.entries(k, torch.float32), bits) for k, bits in enumerate(linear.bits)
        )
    ]
    inputs = linear.reorder(x.float()).unflatten(1, (-1, linear.group_size))
    y = torch.zeros(len(x), linear.tiles * TILE)
    before = numba.get_num_threads()
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    try:
        for token, sums in zip(inputs, y, strict=True):
            for k, book in enumerate(entries):
                tables = token[: linear.groups[k]] @ book
                kernel(
                    linear.codes[k].numpy(), tables.numpy(), sums.numpy(), linear.bits[k],
                    linear.tiles,
                )  # fmt: skip
    finally:
        numba.set_num_threads(before)
    y = y[:, : linear.out_features] * linear.scales.float()
    return y if linear.bias is None else y + linear.bias.float()


assert PADDING >= 2, "the kernel reads up to two bytes past a code's first"
