"""Gradients without a backward pass: the difference of two losses along a random direction.

(SPSA, Spall 1992; for language models MeZO, arXiv 2305.17333; for quantization ZeroQAT, arXiv
2509.00031.) For a standard normal z, ``(L(v + εz) - L(v - εz)) / 2ε · z`` is the gradient of L at v
on average, up to terms of ε². Only losses are computed, so memory is that of inference. Directions
come from seeds and are drawn again where they are needed, instead of being kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from crvq.config.finetune import ZerothOrderConfig
from crvq.finetune.free_values import FreeValues, Leaf

Loss = Callable[[], Tensor]
_STRIDE = 1_000_003


class ZerothOrder:
    """Estimates the gradient of everything that a training may change.

    Args:
        free: what is trained.
        config: distance and number of directions.
        seed: of all directions.
        add_up: sums numbers over the processes that divide a step's parts.
    """

    def __init__(
        self,
        free: FreeValues,
        config: ZerothOrderConfig,
        seed: int,
        add_up: Callable[[list[float]], list[float]] = lambda sums: sums,
    ) -> None:
        self._free, self._config, self._seed, self._add_up = free, config, seed, add_up

    @torch.no_grad()
    def estimate(self, step: int, losses: Callable[[int], Iterable[Loss]]) -> float:
        """Leave the estimate in the leaves' ``free.grad``; values stay what they are.

        Args:
            step: decides the directions.
            losses: the parts of the step; their mean is differentiated.

        Returns:
            The mean of all losses; not finite if one is not (gradients are of no use then).
        """
        config = self._config
        leaves = list(self._free.leaves.values())
        kept = [leaf.free.clone() for leaf in leaves]
        slopes, total = [], 0.0
        for number in range(config.directions):
            above = self._along(step, number, config.distance, losses)
            for leaf, value in zip(leaves, kept, strict=True):
                leaf.free.copy_(value)
            below = self._along(step, number, -config.distance, losses)
            for leaf, value in zip(leaves, kept, strict=True):
                leaf.free.copy_(value)
            slopes.append((above - below) / (2 * config.distance))
            total += (above + below) / 2
        for leaf in leaves:
            leaf.free.grad = torch.zeros_like(leaf.free)
        for number, slope in enumerate(slopes):
            if not math.isfinite(slope):
                return math.nan
            for leaf, direction in self._directions(step, number):
                assert leaf.free.grad is not None
                leaf.free.grad.add_(direction, alpha=slope / len(slopes))
        return total / config.directions

    def _along(
        self, step: int, number: int, distance: float, losses: Callable[[int], Iterable[Loss]]
    ) -> float:
        """Return the mean loss of a step's parts with values moved along a direction."""
        for leaf, direction in self._directions(step, number):
            leaf.free.add_(direction, alpha=distance)
        self._free.write(self._free.values())
        found = [float(part()) for part in losses(step)]
        total, count = self._add_up([math.fsum(found), float(len(found))])
        return total / count if count else math.nan

    def _directions(self, step: int, number: int) -> Iterator[tuple[Leaf, Tensor]]:
        """Draw a direction again, leaf by leaf: the same numbers on every device."""
        place = step * self._config.directions + number
        generator = torch.Generator().manual_seed((self._seed + _STRIDE * place) % 2**63)
        for leaf in self._free.leaves.values():
            direction = torch.randn(leaf.free.shape, generator=generator)
            yield leaf, direction.to(leaf.free.device)
