"""GPU kernels of the quantized linear (Triton): decoding few tokens, and decoding tiles of weights.

Triton's interpreter (``TRITON_INTERPRET=1``, set before torch and triton are imported) runs them on
CPU tensors; the tests compare them with dense decoding there.
"""

# Arguments of kernels are Triton's pointers and scalars, which have no Python types; a
# compile-time condition stays apart from one that is known on the GPU only.
# ruff: noqa: ANN001, ANN202, SIM102
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from crvq.inference.packed_linear import PackedLinear

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MOST_BOOKS = 4
_TABLE_FLOATS = 4096
"""Products that a program holds in shared memory: 16 groups of 256 entries."""
_MOST_TOKENS = 8


@triton.jit
def _codes_at(codes, g, r, groups, tiles, BITS: tl.constexpr, mask):
    """Codes of groups g and out features r, which broadcast, in the layout of `packed_codes`."""
    start = g // 16 * 16
    block = tl.minimum(groups - start, 16)
    place = start * tiles + r // 8 * block + (g - start)
    bit = r % 8 * BITS
    at = codes + place * BITS + bit // 8
    word = tl.load(at, mask=mask, other=0).to(tl.uint32)
    if BITS != 8:
        # A code of up to 16 bits lies in three bytes at most; padding follows the last code.
        word |= tl.load(at + 1, mask=mask, other=0).to(tl.uint32) << 8
        word |= tl.load(at + 2, mask=mask, other=0).to(tl.uint32) << 16
        word = (word >> (bit % 8).to(tl.uint32)) & ((1 << BITS) - 1)
    return word.to(tl.int32)


@triton.jit
def _input_at(x, order, p, in_features, positions, ORDER: tl.constexpr):
    """Inputs at coded positions p; zero for padding."""
    there = p < positions
    channel = p
    if ORDER:
        channel = tl.load(order + p, mask=there, other=0).to(tl.int32)
    return tl.load(x + channel, mask=there & (channel < in_features), other=0.0).to(tl.float32)


@triton.jit
def _looked_up(x, order, codes, book, first, r, out_features, groups, tiles, in_features, positions,
               BITS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SLICE: tl.constexpr,
               ORDER: tl.constexpr):  # fmt: skip
    """Sums over SLICE groups of looked-up products, for out features r."""
    g = first + tl.arange(0, SLICE)
    e = tl.arange(0, 1 << BITS)
    table = tl.zeros((SLICE, 1 << BITS), tl.float32)
    for j in tl.static_range(D):
        column = tl.load(book + e * DP + j).to(tl.float32)
        own = _input_at(x, order, g * D + j, in_features, positions, ORDER)
        own = tl.where(g < groups, own, 0.0)
        table += own[:, None] * column[None, :]
    mask = (g < groups)[:, None] & (r < out_features)[None, :]
    code = _codes_at(codes, g[:, None], r[None, :], groups, tiles, BITS, mask)
    # Tables of groups past the last are zeros, so their codes (0) add nothing.
    return tl.sum(tl.gather(table, code, 1), axis=0)


# A count of 1 must not become a constant: one code serves whichever codebook a slice belongs to.
@triton.jit(do_not_specialize=["groups0", "groups1", "groups2", "groups3",
                               "slices0", "slices1", "slices2"])  # fmt: skip
def _table_kernel(x, order, partial, codes0, codes1, codes2, codes3, book0, book1, book2, book3,
                  groups0, groups1, groups2, groups3, slices0, slices1, slices2, out_features,
                  tiles, in_features, positions, BITS: tl.constexpr, D: tl.constexpr,
                  DP: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr, BOOKS: tl.constexpr,
                  ORDER: tl.constexpr):  # fmt: skip
    """Products of a slice of groups of one codebook; critical groups are slices like the others."""
    part = tl.program_id(0)
    token = tl.program_id(2)
    x += token * in_features
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    codes, book, groups, own = codes0, book0, groups0, part
    if BOOKS > 1:
        if part >= slices0:
            codes, book, groups, own = codes1, book1, groups1, part - slices0
    if BOOKS > 2:
        if part >= slices0 + slices1:
            codes, book, groups, own = codes2, book2, groups2, part - slices0 - slices1
    if BOOKS > 3:
        if part >= slices0 + slices1 + slices2:
            codes, book, groups = codes3, book3, groups3
            own = part - slices0 - slices1 - slices2
    sums = _looked_up(x, order, codes, book, own * SLICE, r, out_features, groups, tiles,
                      in_features, positions, BITS, D, DP, SLICE, ORDER)  # fmt: skip
    at = (token * tl.num_programs(0) + part) * out_features + r
    tl.store(partial + at, sums, mask=r < out_features)


@triton.jit
def _reduce_kernel(partial, scales, bias, y, out_features, parts: tl.constexpr,
                   PARTS: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr):  # fmt: skip
    """Sum the slices' products, always in the same order, then scale them."""
    token = tl.program_id(1)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = r < out_features
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, parts, PARTS):
        p = start + tl.arange(0, PARTS)
        at = partial + (token * parts + p)[:, None] * out_features + r[None, :]
        total += tl.sum(tl.load(at, mask=(p < parts)[:, None] & alive[None, :], other=0.0), axis=0)
    total *= tl.load(scales + r, mask=alive, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + r, mask=alive, other=0.0).to(tl.float32)
    tl.store(y + token * out_features + r, total.to(y.dtype.element_ty), mask=alive)


@triton.jit
def _dot_book(x, order, codes, book, r, out_features, groups: tl.constexpr, tiles, in_features,
              positions, BITS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
              GROUPS: tl.constexpr, ROWS: tl.constexpr, ORDER: tl.constexpr):  # fmt: skip
    """Dot products of one codebook's entries with all inputs that it covers, for out features r."""
    d = tl.arange(0, DP)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, groups, GROUPS):
        g = start + tl.arange(0, GROUPS)
        mask = (g < groups)[:, None] & (r < out_features)[None, :]
        code = _codes_at(codes, g[:, None], r[None, :], groups, tiles, BITS, mask)
        # One vector load per code: entries are contiguous, and stay in the L1 cache.
        entry = tl.load(book + code[:, :, None] * DP + d[None, None, :]).to(tl.float32)
        own = _input_at(x, order, g[:, None] * D + d[None, :], in_features, positions, ORDER)
        own = tl.where((g < groups)[:, None] & (d < D)[None, :], own, 0.0)
        total += tl.sum(tl.sum(entry * own[:, None, :], axis=2), axis=0)
    return total


@triton.jit
def _dot_kernel(x, order, y, scales, bias, codes0, codes1, codes2, codes3, book0, book1, book2,
                book3, groups0: tl.constexpr, groups1: tl.constexpr, groups2: tl.constexpr,
                groups3: tl.constexpr, out_features, tiles, in_features, positions,
                BITS0: tl.constexpr, BITS1: tl.constexpr, BITS2: tl.constexpr,
                BITS3: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, GROUPS: tl.constexpr,
                FEW: tl.constexpr, ROWS: tl.constexpr, BOOKS: tl.constexpr, ORDER: tl.constexpr,
                BIAS: tl.constexpr):  # fmt: skip
    """All groups of a tile of out features, every codebook in one pass."""
    token = tl.program_id(1)
    x += token * in_features
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _dot_book(x, order, codes0, book0, r, out_features, groups0, tiles, in_features,
                      positions, BITS0, D, DP, GROUPS, ROWS, ORDER)  # fmt: skip
    if BOOKS > 1:
        total += _dot_book(x, order, codes1, book1, r, out_features, groups1, tiles, in_features,
                           positions, BITS1, D, DP, FEW, ROWS, ORDER)  # fmt: skip
    if BOOKS > 2:
        total += _dot_book(x, order, codes2, book2, r, out_features, groups2, tiles, in_features,
                           positions, BITS2, D, DP, FEW, ROWS, ORDER)  # fmt: skip
    if BOOKS > 3:
        total += _dot_book(x, order, codes3, book3, r, out_features, groups3, tiles, in_features,
                           positions, BITS3, D, DP, FEW, ROWS, ORDER)  # fmt: skip
    alive = r < out_features
    total *= tl.load(scales + r, mask=alive, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + r, mask=alive, other=0.0).to(tl.float32)
    tl.store(y + token * out_features + r, total.to(y.dtype.element_ty), mask=alive)


@triton.jit
def _decode_kernel(weight, codes, book, scales, first_row, rows, out_features, groups, tiles,
                   positions, BITS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                   ADD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr):  # fmt: skip
    """Decode a tile of one codebook into a dense buffer, or add it to what is there."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    r = first_row + i
    g = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    d = tl.arange(0, DP)
    mask = (i < rows)[:, None] & (g < groups)[None, :]
    code = _codes_at(codes, g[None, :], r[:, None], groups, tiles, BITS, mask)
    value = tl.load(book + code[:, :, None] * DP + d[None, None, :]).to(tl.float32)
    value *= tl.load(scales + r, mask=i < rows, other=0.0).to(tl.float32)[:, None, None]
    at = weight + i[:, None, None] * positions + g[None, :, None] * D + d[None, None, :]
    cells = mask[:, :, None] & (d < D)[None, None, :]
    if ADD:
        value += tl.load(at, mask=cells, other=0.0).to(tl.float32)
    tl.store(at, value.to(weight.dtype.element_ty), mask=cells)


def serves(linear: PackedLinear) -> bool:
    """Return whether the kernels take this linear, on its device."""
    on_gpu = linear.scales.is_cuda or INTERPRETED
    return on_gpu and len(linear.codes) <= MOST_BOOKS and linear.group_size <= 32


def pays(linear: PackedLinear, tokens: int) -> bool:
    """Return whether `multiply` is faster than decoding tiles for a matrix product."""
    return tokens <= _MOST_TOKENS


def _books(linear: PackedLinear) -> list[Tensor]:
    """Codebooks in floating point, d padded to a power of two and codes to whole ranges."""
    if "gpu" not in linear.prepared:
        padded = []
        for k, book in enumerate(linear.codebooks):
            floating = linear.entries(k, torch.float32) if book.dtype == torch.int8 else book
            room = (0, _power_of_two(linear.group_size) - linear.group_size)
            padded.append(functional.pad(floating, (*room, 0, (1 << linear.bits[k]) - len(book))))
        linear.prepared["gpu"] = padded
    books: list[Tensor] = linear.prepared["gpu"]
    return books


def multiply(linear: PackedLinear, x: Tensor, by: str | None = None) -> Tensor:
    """Multiply few tokens ``(tokens, in)`` in natural order, bias included: ``(tokens, out)``.

    Args:
        linear: the weight.
        x: of any floating dtype; the result has it too.
        by: ``tables`` of products in shared memory, looked up once per code, or ``dots`` of
            entries with inputs. On an H200 dots took 0.3 to 0.5 of the time of tables at every
            shape that was tried (benchmarks/README.md), so they are the default.
    """
    x = x.contiguous()
    return by_tables(linear, x) if by == "tables" else by_dots(linear, x)


def by_tables(linear: PackedLinear, x: Tensor, rows: int = 1024, warps: int = 8) -> Tensor:
    """Multiply by tables; ``rows`` out features and ``warps`` per program."""
    bits, count = linear.bits[0], len(linear.codes)
    slice_groups = max(1, _TABLE_FLOATS >> bits)
    slices = [-(-groups // slice_groups) for groups in linear.groups]
    parts, out = sum(slices), linear.out_features
    rows = min(rows, max(64, _power_of_two(out)))
    partial = torch.empty(len(x), parts, out, dtype=torch.float32, device=x.device)
    y = x.new_empty(len(x), out)
    order, bias = _optional(linear.order, x), _optional(linear.bias, x)
    _table_kernel[(parts, triton.cdiv(out, rows), len(x))](
        x, order, partial, *_four(linear.codes), *_four(_books(linear)), *_four(linear.groups),
        *_four(slices)[:3], out, linear.tiles, linear.in_features, linear.positions, BITS=bits,
        D=linear.group_size, DP=_power_of_two(linear.group_size), SLICE=slice_groups, ROWS=rows,
        BOOKS=count, ORDER=linear.order is not None, num_warps=warps,
    )  # fmt: skip
    _reduce_kernel[(triton.cdiv(out, 64), len(x))](
        partial, linear.scales, bias, y, out, parts=parts, PARTS=32, ROWS=64,
        BIAS=linear.bias is not None, num_warps=4,
    )  # fmt: skip
    return y


def by_dots(
    linear: PackedLinear, x: Tensor, rows: int = 8, groups: int = 512, warps: int = 4
) -> Tensor:
    """Multiply by dot products; ``groups`` of ``rows`` out features at once in a program."""
    out, count = linear.out_features, len(linear.codes)
    y = x.new_empty(len(x), out)
    order, bias = _optional(linear.order, x), _optional(linear.bias, x)
    few = max(linear.groups[1:], default=1)
    _dot_kernel[(triton.cdiv(out, rows), len(x))](
        x, order, y, linear.scales, bias, *_four(linear.codes), *_four(_books(linear)),
        *_four(linear.groups), out, linear.tiles, linear.in_features, linear.positions,
        **{f"BITS{k}": bits for k, bits in enumerate(_four(linear.bits))},
        D=linear.group_size, DP=_power_of_two(linear.group_size),
        GROUPS=min(groups, _power_of_two(linear.groups[0])), FEW=min(groups, _power_of_two(few)),
        ROWS=rows, BOOKS=count, ORDER=linear.order is not None, BIAS=linear.bias is not None,
        num_warps=warps,
    )  # fmt: skip
    return y


def decode(linear: PackedLinear, tiles: slice, scaled: bool, buffer: Tensor) -> Tensor:
    """Decode some out features in coded order into the start of a buffer, and return it.

    Args:
        linear: the weight.
        tiles: of out features.
        scaled: multiply by the row scales.
        buffer: at least ``(8 * tiles, positions)``, contiguous, of the dtype to decode to.
    """
    part = linear.rows(tiles)
    rows, width = part.stop - part.start, _power_of_two(linear.group_size)
    scales = linear.scales
    if not scaled:
        if "gpu_ones" not in linear.prepared:
            linear.prepared["gpu_ones"] = torch.ones_like(scales)
        scales = linear.prepared["gpu_ones"]
    for k, (codes, book) in enumerate(zip(linear.codes, _books(linear), strict=True)):
        _decode_kernel[(triton.cdiv(rows, 16), triton.cdiv(linear.groups[k], 16))](
            buffer, codes, book, scales, part.start, rows, linear.out_features, linear.groups[k],
            linear.tiles, linear.positions, BITS=linear.bits[k], D=linear.group_size, DP=width,
            ADD=k > 0, ROWS=16, GROUPS=16, num_warps=4,
        )  # fmt: skip
    return buffer[:rows]


def _four(values: list) -> list:
    """Arguments of the codebooks there are; the first one's again for those there are not."""
    return [*values, *[values[0]] * (MOST_BOOKS - len(values))]


def _optional(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Return a pointer that is never read where there is no tensor."""
    return other if tensor is None else tensor


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
