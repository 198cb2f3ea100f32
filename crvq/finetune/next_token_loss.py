"""Perplexity of the validation windows, looked at in passing while their KL is computed."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from crvq.finetune.kl_divergence import Divergence


class NextTokenLoss:
    """Sums the cross-entropy of next tokens over the windows of one validation."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def watched(self, divergence: Divergence, window: Tensor) -> Divergence:
        """``divergence``, which also counts how well the window's own tokens were predicted.

        Args:
            divergence: of the positions of one window.
            window: its token ids, ``(length,)``; each position but the last predicts the next.
        """
        following = window[1:]

        def look(part: slice, logits: Tensor) -> Tensor:
            wanted = following[part]
            if len(wanted):
                loss = cross_entropy(logits[: len(wanted)].float(), wanted, reduction="sum")
                self._total += float(loss)
                self._count += len(wanted)
            return divergence(part, logits)

        return look

    def perplexity(self) -> float:
        """Over all windows watched, weighted by tokens; NaN before there is one."""
        if not self._count:
            return math.nan
        mean = self._total / self._count
        return math.exp(mean) if mean < 700 else math.inf
