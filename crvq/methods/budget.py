"""Bit budgets: which parameters of a method come to so many bits per weight, everything counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from crvq.config.strict import StrictModel
from crvq.errors import ConfigError
from crvq.methods.method import LinearShape
from crvq.weights.bits import BitCount

ABOVE = 0.03
"""A budget may be exceeded by this part: no method hits it to the bit."""
BELOW = 0.2
"""Parameters that come to less than the budget by more than this part do not meet it."""

P = TypeVar("P", bound=StrictModel)


class BudgetError(ConfigError):
    """A budget is out of a method's reach; ``nearest`` is the nearest average that is not."""

    def __init__(self, message: str, nearest: float) -> None:
        super().__init__(message)
        self.nearest = nearest


def average_bits(shapes: Sequence[LinearShape], count: Callable[[LinearShape], BitCount]) -> float:
    """Bits per weight over all ``shapes``."""
    kinds = Counter(shapes)
    total = sum(count(shape).total * times for shape, times in kinds.items())
    return total / sum(s.out_features * s.in_features * n for s, n in kinds.items())


def fit_layout(
    bits: float,
    shapes: Sequence[LinearShape],
    layouts: Iterable[P],
    count: Callable[[P, LinearShape], BitCount],
) -> P:
    """Return the first of ``layouts`` that meets a budget: at most 3 % above it, and 20 % below.

    Args:
        bits: the budget, an average over the weights of ``shapes``.
        shapes: every linear that will be quantized; at least one.
        layouts: parameters to choose from, the best first.
        count: the bits of one linear.

    Raises:
        BudgetError: none meets the budget; names the nearest average that one comes to.
    """
    reached: list[float] = []
    for layout in layouts:
        average = average_bits(shapes, lambda shape, layout=layout: count(layout, shape))  # type: ignore[misc]
        if bits * (1 - BELOW) <= average <= bits * (1 + ABOVE):
            return layout
        reached.append(average)
    nearest = min(reached, key=lambda average: abs(average - bits))
    raise BudgetError(
        f"budget.bits={bits:g}: the method cannot come to that on this model, everything counted; "
        f"the nearest that it can reach is {nearest:.3f} bits per weight. Set "
        f"budget.bits={nearest:.3f}, or budget.if_infeasible=nearest, or budget=layout and the "
        "method's own parameters",
        nearest,
    )
