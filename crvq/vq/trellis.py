"""Trellis-coded quantization with a computed code: weights as paths of a shift register.

(Tseng et al., QTIP, arXiv 2406.11235, section 3.) A sequence of T numbers is a circle of ``k T``
bits. The L bits that end with those of number t are its *state*, and the number is a fixed
function of the state. So each of the k-bit codes takes part in ``L / k`` numbers, and the best
codes are a shortest path (Viterbi) over ``2^L`` states. The circle (*tail-biting*) makes the first
states follow from the last codes, so that nothing but the codes is stored.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from crvq.vq.kernels import compiled_trellis_for

TrellisCode = Literal["1mad", "3inst"]
TILE = 16
"""Rows and columns of a tile; its 256 weights are one sequence."""

_WORD = 0xFFFFFFFF
_LANES = 16
"""Sequences that the compiled search takes side by side."""
_MOST_ARRIVALS = 1 << 28
"""Bytes that the search in torch may keep."""


@cache
def code_table(code: TrellisCode, state_bits: int) -> Tensor:
    """Return the number that each state stands for, ``(2^L,)`` float32, about N(0, 1).

    ``1mad`` multiplies and adds once modulo 2^32 and sums the four bytes; ``3inst`` masks sign, low
    exponent bits and mantissa of two half-precision numbers into the product and adds these
    (algorithms 1 and 2 of the paper).
    """
    states = torch.arange(1 << state_bits, dtype=torch.int64)
    if code == "1mad":
        word = (states * 34038481 + 76625530) & _WORD
        total = sum((word >> shift) & 255 for shift in (0, 8, 16, 24))
        assert isinstance(total, Tensor)
        # Four uniform bytes: mean 4 * 127.5, variance 4 * (256² - 1) / 12.
        return ((total - 510).double() / (4 * 65535 / 12) ** 0.5).float()
    word = (states * 89226354 + 64248484) & _WORD
    magic = int(torch.tensor(0.922, dtype=torch.float16).view(torch.int16))
    word = (word & 0x8FFF8FFF) ^ (magic << 16 | magic)
    halves = [
        ((part & 0xFFFF) - ((part & 0x8000) << 1)).to(torch.int16).view(torch.float16).double()
        for part in (word, word >> 16)
    ]
    values = halves[0] + halves[1]
    # The spread over all 16-bit states, a constant.
    return (values / 1.2437).float()


def to_tiles(weight: Tensor) -> Tensor:
    """Cut ``(out, in)`` into ``(column tiles, row tiles, 256)``, padded with zeros."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % TILE, 0, -rows % TILE))
    tiles = padded.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE))
    return tiles.permute(2, 0, 1, 3).flatten(2)


def from_tiles(tiles: Tensor, out_features: int, in_features: int) -> Tensor:
    """Undo `to_tiles`, padding left out."""
    squares = tiles.unflatten(2, (TILE, TILE)).permute(1, 2, 0, 3)
    return squares.flatten(0, 1).flatten(1)[:out_features, :in_features]


def states_of(codes: Tensor, code_bits: int, state_bits: int) -> Tensor:
    """Return the state of each number from its own code and those before it, on a circle.

    Args:
        codes: ``(..., T)``, int64, each below ``2^k``.
        code_bits: k.
        state_bits: L.
    """
    states = torch.zeros_like(codes)
    for back in range(-(-state_bits // code_bits)):
        states |= codes.roll(back, -1) << (back * code_bits)
    return states & ((1 << state_bits) - 1)


def search_trellis(values: Tensor, weights: Tensor, table: Tensor, code_bits: int) -> Tensor:
    """Return codes ``(N, T)`` whose numbers come near to values by weighted squared distance.

    Two passes as in the paper (algorithm 4): a free one over the sequence turned by half chooses
    the bits that cross its ends; with them fixed, the second is exact.

    Args:
        values: sequences, ``(N, T)``.
        weights: of the squared distance at each place, ``(T,)``; zero: any number will do.
        table: of `code_table`.
        code_bits: k; at least ``L / k`` numbers make a sequence.
    """
    half = values.shape[1] // 2
    free = viterbi(values.roll(-half, 1), weights.roll(-half), table, code_bits, None)
    # There the original's first number stands at T - half. Its state less its own code is what
    # its predecessors, the original's last numbers, have left in the register.
    crossing = free[:, values.shape[1] - half] >> code_bits
    states = viterbi(values, weights, table, code_bits, crossing)
    return states & ((1 << code_bits) - 1)


def viterbi(
    values: Tensor, weights: Tensor, table: Tensor, code_bits: int, crossing: Tensor | None
) -> Tensor:
    """Return the states ``(N, T)`` of the best paths.

    Args:
        values: ``(N, T)``.
        weights: ``(T,)``.
        table: ``(2^L,)``.
        code_bits: k.
        crossing: ``(N,)``: the ``L - k`` bits in the register before the first number and after
            the last; None: any, and the two may differ.
    """
    compiled = compiled_trellis_for(values.device)
    if compiled is None:
        # Arrivals of all numbers take a byte for each register.
        size = max(1, _MOST_ARRIVALS // (values.shape[1] * (len(table) >> code_bits)))
        parts = values.split(size)
        ends_of = [None] * len(parts) if crossing is None else crossing.split(size)
        found = [
            _viterbi(part, weights, table, code_bits, ends)
            for part, ends in zip(parts, ends_of, strict=True)
        ]
        return torch.cat(found)
    count, length = values.shape
    padded = torch.nn.functional.pad(values.float(), (0, 0, 0, -count % _LANES))
    lanes = padded.view(-1, _LANES, length).mT.contiguous()
    ends = torch.full((len(padded),), -1, dtype=torch.int64)
    if crossing is not None:
        ends[:count] = crossing
        ends[count:] = 0
    states = torch.empty(lanes.shape, dtype=torch.int64)
    compiled.best_paths(
        lanes.numpy(),
        weights.float().contiguous().numpy(),
        table.contiguous().numpy(),
        code_bits,
        ends.view(-1, _LANES).numpy(),
        states.numpy(),
    )
    return states.mT.reshape(-1, length)[:count]


def _viterbi(
    values: Tensor, weights: Tensor, table: Tensor, code_bits: int, crossing: Tensor | None
) -> Tensor:
    """Do the same in torch, all sequences side by side."""
    count, length = values.shape
    device, table = values.device, table.to(values.device)
    # Registers without the newest code: what two states have in common that may follow each other.
    registers = len(table) >> code_bits
    if crossing is None:
        entry = values.new_zeros(count, registers)
    else:
        entry = values.new_full((count, registers), torch.inf)
        entry.scatter_(1, crossing[:, None], 0.0)
    arrivals = torch.empty(length, count, registers, dtype=torch.uint8, device=device)
    cost = entry
    for t in range(length):
        if t:
            entry, best = cost.view(count, -1, registers).min(1)
            arrivals[t] = best.to(torch.uint8)
        distance = weights[t] * (values[:, t, None] - table).square()
        cost = entry.repeat_interleave(1 << code_bits, 1) + distance
    if crossing is None:
        state = cost.argmin(1)
    else:
        last = cost.view(count, -1, registers)
        ends = last.gather(2, crossing[:, None, None].expand(-1, last.shape[1], 1))[:, :, 0]
        state = ends.argmin(1) * registers + crossing
    every = torch.arange(count, device=device)
    states = torch.empty(count, length, dtype=torch.int64, device=device)
    for t in range(length - 1, -1, -1):
        states[:, t] = state
        register = state >> code_bits
        state = arrivals[t, every, register].long() * registers + register
    return states
