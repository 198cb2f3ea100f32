"""Bits divided over linear layers: the least total loss that a number of bits buys.

Each linear layer chooses the layout of its codes from a few: how many weights one code stands for,
and how many bits the code has. Layers of a block have one vector length; those that choose the same
width too share a set of codebooks, so a width that nobody else in the block has costs its codebooks
as well. With one price per bit for the whole model (a Lagrange multiplier) blocks decide apart from
each other, and a block's choice is exact: every set of widths of every vector length is tried, and
within it each layer takes what is best for itself. The price is then raised or lowered until the
bits fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HALVINGS = 60


class Layout(NamedTuple):
    """How a layer's weights are coded."""

    group_size: int
    """d: weights that one code stands for."""
    codebook_bits: int
    """Bits of a code."""


@dataclass(frozen=True)
class LayerCosts:
    """What one linear layer loses and pays, by layout."""

    losses: Mapping[Layout, float]
    bits: Mapping[Layout, float]
    """Of its codes, and of all that no other layer shares."""


Block = Sequence[LayerCosts]


def allocate(
    blocks: Sequence[Block], storage: Mapping[Layout, float], budget: float
) -> list[list[Layout]]:
    """Return the layout of each layer's codes, block by block.

    Of all divisions with as many bits or fewer, none loses less than the one before the rest of the
    budget is spent (it lies on the convex hull); the rest then goes where a bit still gains most.

    Args:
        blocks: the layers of each.
        storage: bits of a block's codebooks of each layout.
        budget: bits in all.

    Raises:
        ValueError: the narrowest codes take more.
    """
    tables = [_Table(block, storage) for block in blocks]
    fewest = [table.best(math.inf) for table in tables]
    if total_bits(blocks, storage, fewest) > budget:
        raise ValueError(f"at least {total_bits(blocks, storage, fewest):.0f} bits are needed")

    def division(price: float) -> list[list[Layout]]:
        return [table.best(price) for table in tables]

    cheap, dear = 0.0, 1.0
    while total_bits(blocks, storage, division(dear)) > budget:
        cheap, dear = dear, dear * 16
    for _ in range(_HALVINGS):
        # Prices lie many orders of magnitude apart once the lower end is not zero any more.
        middle = math.sqrt(cheap * dear) if cheap else dear / 16
        if total_bits(blocks, storage, division(middle)) > budget:
            cheap = middle
        else:
            dear = middle
        if dear < 1e-300:
            break
    return _spend(blocks, storage, budget, division(dear))


def total_bits(
    blocks: Sequence[Block], storage: Mapping[Layout, float], chosen: Sequence[Sequence[Layout]]
) -> float:
    """Return the bits of a division, codebooks included."""
    return sum(
        sum(layer.bits[layout] for layer, layout in zip(block, own, strict=True))
        + sum(storage[layout] for layout in set(own))
        for block, own in zip(blocks, chosen, strict=True)
    )


def total_loss(blocks: Sequence[Block], chosen: Sequence[Sequence[Layout]]) -> float:
    """Return the sum of the layers' losses."""
    return sum(
        layer.losses[layout]
        for block, own in zip(blocks, chosen, strict=True)
        for layer, layout in zip(block, own, strict=True)
    )


class _Table:
    """A block's losses and bits as arrays, and the sets of layouts that its layers may use."""

    def __init__(self, block: Block, storage: Mapping[Layout, float]) -> None:
        self._layouts = sorted(storage)
        self._losses = np.array([[layer.losses[x] for x in self._layouts] for layer in block])
        self._bits = np.array([[layer.bits[x] for x in self._layouts] for layer in block])
        self._storage = np.array([storage[x] for x in self._layouts])
        self._sets = np.array([[x in some for x in self._layouts] for some in _sets(self._layouts)])

    def best(self, price: float) -> list[Layout]:
        """Return the layouts with the least ``loss + price * bits``; at any price: fewest bits."""
        lossy, priced = (0.0, 1.0) if math.isinf(price) else (1.0, price)
        cost: NDArray[np.float64] = lossy * self._losses + priced * self._bits
        # (sets, layers, layouts): a layer may only take what is in the set.
        allowed = np.where(self._sets[:, None, :], cost, np.inf)
        totals = allowed.min(-1).sum(-1) + priced * (self._sets @ self._storage)
        return [self._layouts[place] for place in allowed[totals.argmin()].argmin(-1)]


def _sets(layouts: Sequence[Layout]) -> list[tuple[Layout, ...]]:
    """Return every set of layouts with one vector length."""
    lengths = sorted({layout.group_size for layout in layouts})
    made: list[tuple[Layout, ...]] = []
    for length in lengths:
        own = [layout for layout in layouts if layout.group_size == length]
        made += chain.from_iterable(combinations(own, n) for n in range(1, len(own) + 1))
    return made


def _spend(
    blocks: Sequence[Block],
    storage: Mapping[Layout, float],
    budget: float,
    chosen: list[list[Layout]],
) -> list[list[Layout]]:
    """Widen codes, one layer after the other, where a bit gains most, as long as bits are left."""
    left = budget - total_bits(blocks, storage, chosen)
    while True:
        offers = []
        for place, (block, own) in enumerate(zip(blocks, chosen, strict=True)):
            before = total_bits([block], storage, [own])
            for number, layer in enumerate(block):
                for layout in storage:
                    gain = layer.losses[own[number]] - layer.losses[layout]
                    if gain <= 0 or layout.group_size != own[number].group_size:
                        continue
                    wider = [*own[:number], layout, *own[number + 1 :]]
                    more = total_bits([block], storage, [wider]) - before
                    if more <= left:
                        offers.append((gain / max(more, 1e-9), place, wider, more))
        if not offers:
            return chosen
        _, place, wider, more = max(offers, key=lambda offer: offer[0])
        chosen[place] = wider
        left -= more
