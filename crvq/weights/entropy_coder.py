"""An entropy coder for codes with fixed frequencies: interleaved rANS, in numpy.

(Duda, Asymmetric numeral systems, arXiv 1311.2540.) Symbols go round robin to lanes, each with a
state of 32 bits; a state that grows out of its range gives 16 bits to the stream. The decoder runs
the same steps backwards, so the encoder starts with the last symbols.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crvq.weights.fields import FormatError

PRECISION = 12
"""Frequencies add up to ``2**PRECISION``."""
_LOW = 1 << 16
# A lane's final state takes 32 bits: at most 0.004 bits per symbol.
_SYMBOLS_PER_LANE = 8192
_MOST_LANES = 64


def lanes_of(count: int) -> int:
    """Return how many lanes code so many symbols."""
    return min(max(count // _SYMBOLS_PER_LANE, 1), _MOST_LANES)


def stored_frequencies(counts: Tensor) -> Tensor:
    """Return integer frequencies that add up to ``2**PRECISION``, at least 1 for what occurs.

    Args:
        counts: of each symbol, ``(symbols,)``; at least one is positive, at most 1024 symbols.
    """
    total = 1 << PRECISION
    scaled = (counts.double() * (total / float(counts.sum()))).round().long()
    found = torch.where(counts > 0, scaled.clamp_min(1), 0)
    # Rounding leaves a few too many or too few; the largest feels it least.
    while int(found.sum()) != total:
        found[int(found.argmax())] += 1 if int(found.sum()) < total else -1
    return found


def encode(symbols: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the stream ``(words,)`` of 16 bits each and the lanes' states ``(lanes, 2)`` likewise.

    Args:
        symbols: ``(count,)``, int64, each with a positive frequency.
        frequencies: of `stored_frequencies`.
    """
    values = symbols.cpu().numpy()
    table = frequencies.cpu().numpy().astype(np.uint64)
    starts = np.concatenate(([0], np.cumsum(table)[:-1])).astype(np.uint64)
    lanes = lanes_of(len(values))
    states = np.full(lanes, _LOW, dtype=np.uint64)
    parts: list[np.ndarray] = []
    shift, half = np.uint64(PRECISION), np.uint64(16)
    for first in range((len(values) - 1) // lanes * lanes, -1, -lanes):
        chosen = values[first : first + lanes]
        own, state = table[chosen], states[: len(chosen)]
        # A state of f << 20 or more would leave 32 bits after this symbol.
        full = state >= own << np.uint64(32 - PRECISION)
        parts.append((state[full] & np.uint64(0xFFFF)).astype(np.int64))
        state[full] >>= half
        states[: len(chosen)] = ((state // own) << shift) + state % own + starts[chosen]
    words = np.concatenate(parts[::-1]) if parts else np.zeros(0, dtype=np.int64)
    last = np.stack((states & np.uint64(0xFFFF), states >> half), 1).astype(np.int64)
    return torch.from_numpy(words), torch.from_numpy(last)


def decode(words: Tensor, states: Tensor, frequencies: Tensor, count: int) -> Tensor:
    """Return ``count`` symbols, int64, that `encode` made words and states of.

    Raises:
        FormatError: frequencies do not add up, or stream and states are not those of so many
            symbols.
    """
    table = frequencies.cpu().numpy().astype(np.uint64)
    if int(table.sum()) != 1 << PRECISION:
        raise FormatError("frequencies", f"add up to {int(table.sum())}, not {1 << PRECISION}")
    starts = np.concatenate(([0], np.cumsum(table)[:-1])).astype(np.uint64)
    symbol_of = np.repeat(np.arange(len(table)), table.astype(np.int64))
    stream = words.cpu().numpy().astype(np.uint64)
    low, high = states.cpu().numpy().astype(np.uint64).T
    now, at = low + (high << np.uint64(16)), 0
    result = np.empty(count, dtype=np.int64)
    lanes, shift = lanes_of(count), np.uint64(PRECISION)
    for first in range(0, count, lanes):
        state = now[: min(lanes, count - first)]
        slot = state & np.uint64((1 << PRECISION) - 1)
        chosen = symbol_of[slot]
        result[first : first + lanes] = chosen
        state = table[chosen] * (state >> shift) + slot - starts[chosen]
        empty = state < _LOW
        needed = int(empty.sum())
        if at + needed > len(stream):
            raise FormatError("words", f"end after {len(stream)}, before the last code")
        state[empty] = (state[empty] << np.uint64(16)) | stream[at : at + needed]
        at += needed
        now[: len(state)] = state
    # The encoder started from these states: a check of the whole stream.
    if at != len(stream) or bool((now != _LOW).any()):
        raise FormatError("words", "are not those that the codes were encoded to")
    return torch.from_numpy(result)
