"""PV-Tuning's steps on codes (arXiv 2405.14852): codes follow the dense weight's gradient.

Codes have no gradient. A straight-through buffer for each linear collects where its dense weight
wants to go: it is moved against the gradient like a dense weight under Adam, and every
``period`` steps those few groups change their codes that come nearest to it by that. Codebooks and
scales (the V step) are trained by Adam as they are without this; both use the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crvq.config.finetune import CodesConfig
from crvq.finetune.free_values import FreeValues
from crvq.weights.trainable import Importance


@dataclass
class CodeBuffer:
    """What one linear's dense weight wants, and how steep the loss is in it."""

    wish: Tensor
    """Straight-through buffer less the decoded weight, ``(out, in)``."""
    rows: Tensor
    """Running mean of squared gradients of each row, ``(out,)``."""
    columns: Tensor
    """The same of each column, ``(in,)``. Its shape is diag(H) by the chain rule: the gradient is
    the output's gradient times the input."""
    size: float
    """The dense weight's root mean square at the start: a learning rate is a part of it."""
    updates: int = 0

    def importance(self, metric: str) -> Importance:
        """Adam's step is the exact minimum of a quadratic model with weights √(mean g²)."""
        if metric == "none":
            return torch.ones_like(self.rows), torch.ones_like(self.columns)
        return self.rows.sqrt(), self.columns.sqrt()


class CodeSteps:
    """Steps on the codes of all linears of a training.

    Args:
        free: which collects dense gradients.
        config: of the stage.
    """

    def __init__(self, free: FreeValues, config: CodesConfig) -> None:
        self._free, self._config = free, config
        self.buffers: dict[str, CodeBuffer] = {}
        """By name of the linear. With second moments as products of a row's and a column's part
        (Adafactor, arXiv 1804.04235), a buffer is one float32 per weight."""
        for name, dense in free.dense_weights():
            self.buffers[name] = CodeBuffer(
                torch.zeros_like(dense),
                dense.new_zeros(dense.shape[0]),
                dense.new_zeros(dense.shape[1]),
                float(dense.square().mean().sqrt()),
            )

    @torch.no_grad()
    def step(self, number: int, parts: int, rate_factor: float) -> None:
        """Move buffers by the gradients of a step; change codes if it is time.

        Args:
            number: of the step, from 1.
            parts: of the step, over which dense gradients were summed.
            rate_factor: of the schedule.
        """
        rate = self._config.learning_rate * rate_factor
        for name, gradient in self._free.take_dense_gradients():
            self._follow(self.buffers[name], gradient / parts, rate)
        if number % self._config.period == 0:
            for name, buffer in self.buffers.items():
                self._change_codes(name, buffer)

    def _follow(self, buffer: CodeBuffer, gradient: Tensor, rate: float) -> None:
        beta = self._config.beta
        squares = gradient.square()
        buffer.rows.lerp_(squares.mean(1), 1 - beta)
        buffer.columns.lerp_(squares.mean(0), 1 - beta)
        buffer.updates += 1
        buffer.wish *= 1 - self._config.delta_decay
        whole = float(buffer.rows.mean())
        if whole <= 0:  # no gradient reached this linear yet
            return
        bias = 1 - beta**buffer.updates
        expected = (buffer.rows[:, None] / whole) * (buffer.columns / bias)
        update = torch.where(expected > 0, gradient * expected.rsqrt(), 0.0)
        # Products of row and column parts underestimate some squares: bound the step as a whole.
        update /= max(1.0, float(update.square().mean().sqrt()))
        buffer.wish -= rate * buffer.size * update

    def _change_codes(self, name: str, buffer: CodeBuffer) -> None:
        importance = buffer.importance(self._config.metric)
        # What the change of codes has fulfilled of the wish is taken off it.
        buffer.wish -= self._free.move_codes(
            name, buffer.wish, importance, self._config.max_change, self._config.beam
        )
