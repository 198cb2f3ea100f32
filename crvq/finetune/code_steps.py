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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from crvq.config.finetune import CodesConfig
from crvq.finetune.free_values import FreeValues
from crvq.weights.trainable import Importance

_LEAST_ROW = 0.25
"""Of the mean over rows."""


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

    def squares(self, weight: float, rows: Tensor) -> Tensor:
        """Mean squares of all weights as products of a row's and a column's part, ``(out, in)``.

        (Adafactor, arXiv 1804.04235.)

        Args:
            weight: what the decaying sums add up to.
            rows: `rows`, or `steady_rows`.
        """
        whole = float(self.rows.mean())
        if whole <= 0:  # no gradient reached this linear yet
            return torch.zeros_like(self.wish)
        return (rows[:, None] / whole) * (self.columns / weight)

    def steady_rows(self) -> Tensor:
        """Rows' mean squares, none far below the others.

        Where one token rules (an attention sink), a probe sees each row through a single random
        number, and a row that happened to get a small one would seem free to move.
        """
        return self.rows.clamp_min(_LEAST_ROW * float(self.rows.mean()))


class CodeSteps:
    """Steps on the codes of all linears of a training.

    Args:
        free: which collects dense gradients.
        config: of the stage.
    """

    def __init__(self, free: FreeValues, config: CodesConfig) -> None:
        self._free, self._config = free, config
        self.damping = config.damping
        self.buffers: dict[str, CodeBuffer] = {}
        """By name of the linear; one float32 per weight."""
        for name, dense in free.dense_weights():
            self.buffers[name] = CodeBuffer(
                torch.zeros_like(dense),
                dense.new_zeros(dense.shape[0]),
                dense.new_zeros(dense.shape[1]),
                float(dense.square().mean().sqrt()),
            )

    def is_due(self, number: int) -> bool:
        """Whether codes may change in step ``number``, from 1."""
        return number % self._config.period == 0

    @property
    def wants_probe(self) -> bool:
        """Whether the Hessian must be known before codes change."""
        return self._config.rule == "newton"

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
            expected = buffer.squares(1 - beta**buffer.updates, buffer.rows)
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
    def try_changes(self, loss: Callable[[], float]) -> bool:
        """Change codes; with ``newton``, take them back if the loss rises by it.

        As in Levenberg and Marquardt's method the damping falls after a success and rises after a
        failure: a diagonal cannot know how changes of many groups act together.

        Args:
            loss: of the present step's windows, for the model as it is written then.

        Returns:
            Whether new codes were kept.
        """
        if self._config.rule == "straight_through":
            for name, buffer in self.buffers.items():
                # Adam's step is the minimum of a quadratic model with hessians √(mean g²). What
                # the new codes fulfil of the wish is taken off it.
                buffer.wish -= self._move(
                    name, buffer.wish, (buffer.rows.sqrt(), buffer.columns.sqrt())
                )
            return True
        before, kept = loss(), self._free.coded_weights()
        changes = {
            name: self._newton(name, buffer)
            for name, buffer in self.buffers.items()
            if buffer.probes and buffer.updates
        }
        if not loss() <= before:
            self._free.load_codes(kept)
            self.damping = min(self.damping * 4, 1e12)
            return False
        for name, change in changes.items():
            buffer = self.buffers[name]
            # The gradient at the new weight, by the same model: changes that are made are not
            # wanted again before new gradients say so.
            weight = 1 - self._config.beta**buffer.updates
            buffer.wish += weight * self._hessian(buffer) * change
        self.damping = max(self.damping / 2, 1.0)
        return True

    def _add_squares(self, buffer: CodeBuffer, gradient: Tensor) -> None:
        squares = gradient.square()
        buffer.rows.lerp_(squares.mean(1), 1 - self._config.beta)
        buffer.columns.lerp_(squares.mean(0), 1 - self._config.beta)

    def _newton(self, name: str, buffer: CodeBuffer) -> Tensor:
        gradient = buffer.wish / (1 - self._config.beta**buffer.updates)
        hessian = self.damping * self._hessian(buffer)
        target = torch.where(hessian > 0, -gradient / hessian, 0.0)
        return self._move(name, target, (buffer.steady_rows(), buffer.columns))

    def _hessian(self, buffer: CodeBuffer) -> Tensor:
        weight = 1 - self._config.beta**buffer.probes
        return buffer.squares(weight, buffer.steady_rows())

    def _move(self, name: str, wish: Tensor, importance: Importance) -> Tensor:
        config = self._config
        return self._free.move_codes(name, wish, importance, config.max_change, config.beam)
