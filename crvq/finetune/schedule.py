"""Learning rates over a training."""

from __future__ import annotations

import math
from typing import Literal


def rate_factor(
    schedule: Literal["constant", "cosine"], warmup: float, step: int, steps: int
) -> float:
    """What the learning rate is multiplied by in step ``step`` (from 0) of ``steps``.

    It rises in a straight line over the first ``warmup`` part of the steps; then it stays
    (``constant``) or falls along a half cosine to zero after the last step.
    """
    rising = warmup * steps
    if step + 1 < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - max(rising - 1, 0.0)) / (steps - max(rising - 1, 0.0))
    return 0.5 * (1 + math.cos(math.pi * done))
