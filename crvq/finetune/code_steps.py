"""PV-Tuning's steps on codes (arXiv 2405.14852): codes follow the dense weight's gradient.

Codes have no gradient. What the dense weight wants is collected for each linear, and every
``period`` steps those few groups change their codes that come nearest to it by that. Codebooks and
scales (the V step) are trained by Adam as they are without this; both use the same gradients.

``straight_through`` moves a dense buffer against the gradient under Adam, as the authors do. At 1
bit an entry's neighbours are about as far apart as the weight is large, so a buffer needs many
steps before any code changes, and what it has gathered by then is mostly noise. ``newton`` knows
how far to go: it minimizes ``g·Δ + h·Δ²/2`` over the entries, g being the mean gradient and h the
diagonal of the Gauss-Newton matrix, estimated by Hutchinson's random probes. Then what a group
gains is the loss that its change is expected to save.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crvq.config.finetune import CodesConfig
from crvq.finetune.free_values import FreeValues


@dataclass
class CodeBuffer:
    """What one linear's dense weight wants, and how steep the loss is in it."""

    wish: Tensor
    """``(out, in)``. straight_through: the buffer less the decoded weight; newton: the decaying
    sum of gradients at the weight as it is, of total weight ``1 - beta**updates``."""
    rows: Tensor
    """Decaying sum of squared gradients (newton: of probes), the mean of each row, ``(out,)``."""
    columns: Tensor
    """The same of each column, ``(in,)``. It has the shape of diag(H): the gradient is the output's
    gradient times the input."""
    size: float
    """The dense weight's root mean square at the start: a learning rate is a part of it."""
    updates: int = 0
    probes: int = 0

    def squares(self, weight: float) -> Tensor:
        """Mean squares of all weights as products of a row's and a column's part, ``(out, in)``.

        (Adafactor, arXiv 1804.04235.) ``weight`` is what the decaying sums add up to.
        """
        whole = float(self.rows.mean())
        if whole <= 0:  # no gradient reached this linear yet
            return torch.zeros_like(self.wish)
        return (self.rows[:, None] / whole) * (self.columns / weight)


class CodeSteps:
    """Steps on the codes of all linears of a training.

    Args:
        free: which collects dense gradients.
        config: of the stage.
    """

    def __init__(self, free: FreeValues, config: CodesConfig) -> None:
        self._free, self._config = free, config
        self.buffers: dict[str, CodeBuffer] = {}
        """By name of the linear; one float32 per weight."""
        for name, dense in free.dense_weights():
            self.buffers[name] = CodeBuffer(
                torch.zeros_like(dense),
                dense.new_zeros(dense.shape[0]),
                dense.new_zeros(dense.shape[1]),
                float(dense.square().mean().sqrt()),
            )

    def wants_probe(self, number: int) -> bool:
        """Whether step ``number``, from 1, is one whose curvature must be known."""
        return self._config.rule == "newton" and number % self._config.period == 0

    @torch.no_grad()
    def follow(self, parts: int, rate_factor: float) -> None:
        """Take note of a step's dense gradients.

        Args:
            parts: of the step, over which gradients were summed.
            rate_factor: of the schedule.
        """
        beta = self._config.beta
        for name, total in self._free.take_dense_gradients():
            buffer, gradient = self.buffers[name], total / parts
            buffer.updates += 1
            if self._config.rule == "newton":
                buffer.wish.lerp_(gradient, 1 - beta)
                continue
            self._add_squares(buffer, gradient)
            expected = buffer.squares(1 - beta**buffer.updates)
            update = torch.where(expected > 0, gradient * expected.rsqrt(), 0.0)
            # Row and column parts underestimate some squares: bound the step as a whole.
            update /= max(1.0, float(update.square().mean().sqrt()))
            buffer.wish *= 1 - self._config.delta_decay
            buffer.wish -= self._config.learning_rate * rate_factor * buffer.size * update

    @torch.no_grad()
    def follow_probe(self) -> None:
        """Take note of the dense gradients of a random probe; see `block_probe`."""
        for name, gradient in self._free.take_dense_gradients():
            self.buffers[name].probes += 1
            self._add_squares(self.buffers[name], gradient)

    @torch.no_grad()
    def change(self, number: int) -> None:
        """Change codes if step ``number``, from 1, is one of each ``period``."""
        if number % self._config.period == 0:
            for name, buffer in self.buffers.items():
                self._change(name, buffer)

    def _add_squares(self, buffer: CodeBuffer, gradient: Tensor) -> None:
        squares = gradient.square()
        buffer.rows.lerp_(squares.mean(1), 1 - self._config.beta)
        buffer.columns.lerp_(squares.mean(0), 1 - self._config.beta)

    def _change(self, name: str, buffer: CodeBuffer) -> None:
        most, beam = self._config.max_change, self._config.beam
        if self._config.rule == "straight_through":
            # Adam's step is the minimum of a quadratic model with curvatures √(mean g²). What the
            # new codes fulfil of the wish is taken off it.
            importance = buffer.rows.sqrt(), buffer.columns.sqrt()
            buffer.wish -= self._free.move_codes(name, buffer.wish, importance, most, beam)
            return
        if not (buffer.probes and buffer.updates):
            return
        beta, damping = self._config.beta, self._config.damping
        curvature = damping * buffer.squares(1 - beta**buffer.probes)
        weight = 1 - beta**buffer.updates
        target = torch.where(curvature > 0, -buffer.wish / weight / curvature, 0.0)
        change = self._free.move_codes(name, target, (buffer.rows, buffer.columns), most, beam)
        # The gradient at the new weight, by the same model: changes that are made are not wanted
        # again before new gradients say so.
        buffer.wish += weight * curvature * change
