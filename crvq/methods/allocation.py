"""Bits divided over linear layers: the least total loss that a number of bits buys.

Each linear layer chooses the width of its codes from a few. Layers of a block that choose the same
width share a set of codebooks, so a width that nobody else in the block has costs its codebooks as
well. With one price per bit for the whole model (a Lagrange multiplier) blocks decide apart from
each other, and a block's choice is exact: every set of widths is tried, and within it each layer
takes what is best for itself. The price is then raised or lowered until the bits fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

_HALVINGS = 60


@dataclass(frozen=True)
class LayerCosts:
    """What one linear layer loses and pays, by the width of its codes."""

    losses: Mapping[int, float]
    bits: Mapping[int, float]
    """Of its codes, and of all that no other layer shares."""


Block = Sequence[LayerCosts]


def allocate(
    blocks: Sequence[Block], storage: Mapping[int, float], budget: float
) -> list[list[int]]:
    """Return the width of each layer's codes, block by block.

    Of all divisions with as many bits or fewer, none loses less than the one before the rest of the
    budget is spent (it lies on the convex hull); the rest then goes where a bit still gains most.

    Args:
        blocks: the layers of each.
        storage: bits of a block's codebooks of each width.
        budget: bits in all.

    Raises:
        ValueError: the narrowest codes take more.
    """
    cheap, dear = 0.0, 1.0
    chosen = [_best(block, storage, math.inf) for block in blocks]
    if total_bits(blocks, storage, chosen) > budget:
        raise ValueError(f"at least {total_bits(blocks, storage, chosen):.0f} bits are needed")
    while total_bits(blocks, storage, _all(blocks, storage, dear)) > budget:
        cheap, dear = dear, dear * 16
    for _ in range(_HALVINGS):
        # Prices lie many orders of magnitude apart once the lower end is not zero any more.
        middle = math.sqrt(cheap * dear) if cheap else dear / 16
        if total_bits(blocks, storage, _all(blocks, storage, middle)) > budget:
            cheap = middle
        else:
            dear = middle
        if dear < 1e-300:
            break
    return _spend(blocks, storage, budget, _all(blocks, storage, dear))


def total_bits(
    blocks: Sequence[Block], storage: Mapping[int, float], chosen: Sequence[Sequence[int]]
) -> float:
    """Return the bits of a division, codebooks included."""
    return sum(
        sum(layer.bits[width] for layer, width in zip(block, own, strict=True))
        + sum(storage[width] for width in set(own))
        for block, own in zip(blocks, chosen, strict=True)
    )


def total_loss(blocks: Sequence[Block], chosen: Sequence[Sequence[int]]) -> float:
    """Return the sum of the layers' losses."""
    return sum(
        layer.losses[width]
        for block, own in zip(blocks, chosen, strict=True)
        for layer, width in zip(block, own, strict=True)
    )


def _all(blocks: Sequence[Block], storage: Mapping[int, float], price: float) -> list[list[int]]:
    return [_best(block, storage, price) for block in blocks]


def _best(block: Block, storage: Mapping[int, float], price: float) -> list[int]:
    """Return a block's widths with the least ``loss + price * bits``; at any price: fewest bits."""
    lossy, priced = (0.0, 1.0) if math.isinf(price) else (1.0, price)
    widths = sorted(storage)
    sets = chain.from_iterable(combinations(widths, n) for n in range(1, len(widths) + 1))
    best, least = [widths[0]] * len(block), math.inf
    for some in sets:
        own, cost = [], priced * sum(storage[width] for width in some)
        for layer in block:
            costs = [lossy * layer.losses[w] + priced * layer.bits[w] for w in some]
            place = costs.index(min(costs))
            own.append(some[place])
            cost += costs[place]
        if cost < least:
            best, least = own, cost
    return best


def _spend(
    blocks: Sequence[Block],
    storage: Mapping[int, float],
    budget: float,
    chosen: list[list[int]],
) -> list[list[int]]:
    """Widen codes, one layer after the other, where a bit gains most, as long as bits are left."""
    left = budget - total_bits(blocks, storage, chosen)
    while True:
        offers = []
        for place, (block, own) in enumerate(zip(blocks, chosen, strict=True)):
            for number, layer in enumerate(block):
                for width in storage:
                    wider = [*own[:number], width, *own[number + 1 :]]
                    more = total_bits([block], storage, [wider]) - total_bits(
                        [block], storage, [own]
                    )
                    gain = layer.losses[own[number]] - layer.losses[width]
                    if gain > 0 and more <= left:
                        offers.append((gain / max(more, 1e-9), place, wider, more))
        if not offers:
            return chosen
        _, place, wider, more = max(offers, key=lambda offer: offer[0])
        chosen[place] = wider
        left -= more
