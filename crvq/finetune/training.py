"""Adam over free values: steps, validation, early stop, and the best kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from crvq.config.finetune import TrainingConfig
from crvq.finetune.code_steps import CodeSteps
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.finetune.free_values import FreeValues, Snapshot
from crvq.finetune.zeroth_order import ZerothOrder
from crvq.team import team
from crvq.vq.storage import StorageRangeError


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


Loss = Callable[[], Tensor]
"""Computes a loss of one part of a step, with a graph."""


@dataclass
class TrainingState:
    """Where a training is; a resumed one needs leaves, codes, and the optimizers' states too."""

    step: int = 0
    best: Snapshot | None = None
    """None: the start, as it lies in storage."""
    best_step: int = 0
    best_changed: float | None = None
    """Part of the groups whose codes differ from the start's in the best."""
    first_loss: float = math.nan
    best_loss: float = math.inf
    worse: int = 0
    """Validations since the best."""
    skipped: int = 0
    stopped: str = "done"
    seconds: float = 0.0
    train_total: float = 0.0
    """Sum of training losses since the last validation."""
    train_count: int = 0
    points: list[CurvePoint] = field(default_factory=list)


class Training:
    """Lowers a loss and keeps what validates best, rounded to storage; the start is a candidate.

    Args:
        free: what is trained. Its present values must be those of the model.
        config: Adam, schedule and stopping.
        steps: in all.
        validate_every: steps between validations.
        an_epoch: steps of a pass over the training windows.
        stage: for the curve.
        block: for the curve.
        divided: the parts of a step are divided among the processes of a team.
        seed: of the directions of zeroth-order steps.
    """

    def __init__(
        self,
        free: FreeValues,
        config: TrainingConfig,
        steps: int,
        validate_every: int,
        an_epoch: int,
        stage: str,
        block: int | None = None,
        divided: bool = False,
        seed: int = 0,
    ) -> None:
        self.state = TrainingState()
        self._divided = divided
        self._free, self._config, self._steps = free, config, steps
        self.codes = CodeSteps(free, config.codes) if config.codes is not None else None
        self._every, self._an_epoch = validate_every, an_epoch
        self._perplexity: Callable[[], float | None] = lambda: None
        self._stage, self._block = stage, block
        rates = {"codebooks": 1.0, "scales": config.scale_rate, "norms": config.norm_rate}
        self._rates = [rate for kind, rate in rates.items() if self._of(kind)]
        groups = [{"params": self._of(kind)} for kind in rates if self._of(kind)]
        self.optimizer: torch.optim.Optimizer
        self._zeroth_order: ZerothOrder | None = None
        if config.zeroth_order is None:
            self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate, betas=config.betas)
        else:
            # Adam divides by each value's own noise, which is all that one direction tells of it.
            self.optimizer = torch.optim.SGD(groups, lr=config.learning_rate)
            add_up = team().total if divided else list[float]
            self._zeroth_order = ZerothOrder(free, config.zeroth_order, seed, add_up)

    def _of(self, kind: str) -> list[Tensor]:
        return [leaf.free for leaf in self._free.leaves.values() if leaf.kind == kind]

    def run(
        self,
        losses: Callable[[int], Iterable[Loss]],
        validate: Callable[[], float],
        on_step: Callable[[TrainingState], None] = lambda state: None,
        perplexity: Callable[[], float | None] = lambda: None,
        probe: Callable[[int], Tensor] | None = None,
    ) -> TrainingSummary:
        """Train from the state on; the model ends with the best values.

        Args:
            losses: the parts of a step, whose mean gradient it takes. They must depend on the
                step alone, so that a resumed training sees the same.
            validate: the validation loss of the model as it is.
            on_step: called after each step, once its state is complete.
            perplexity: what the last validation saw of it, for the curve alone.
            probe: of a step: a scalar whose squared gradients are the loss's hessian on average
                (see `block_probe`); needed for codes that follow ``newton``.
        """
        self._perplexity = perplexity
        state, begun = self.state, time.perf_counter() - self.state.seconds
        if not state.points:
            state.first_loss = validate()
            state.best_loss = state.first_loss if math.isfinite(state.first_loss) else math.inf
            self._note(state.first_loss)
        while state.step < self._steps and state.stopped == "done":
            self._step(losses, probe)
            state.step += 1
            if state.skipped > self._config.max_skipped:
                state.stopped = "not finite"
            elif state.step % self._every == 0 or state.step == self._steps:
                state.seconds = time.perf_counter() - begun
                self._validate(validate)
            state.seconds = time.perf_counter() - begun
            on_step(state)
        self._free.restore(self._free.start if state.best is None else state.best)
        state.seconds = time.perf_counter() - begun
        return self._summary()

    def _step(
        self,
        losses: Callable[[int], Iterable[Loss]],
        probe: Callable[[int], Tensor] | None,
    ) -> None:
        free, state = self._free, self.state
        free.write(free.values())
        self.optimizer.zero_grad(set_to_none=True)
        if self._zeroth_order is not None:
            self._finish(self._zeroth_order.estimate(state.step, losses), 1, losses, probe)
            return
        total, count = 0.0, 0
        with free.gradients():
            for part in losses(state.step):
                loss = part()
                total += float(loss.detach())
                count += 1
                # Processes that divide a step run as many passes each.
                if not math.isfinite(total) and not self._divided:
                    break
                loss.backward()
        total, count = self._add_up(total, count)
        self._finish(total, count, losses, probe)

    def _finish(
        self,
        total: float,
        count: int,
        losses: Callable[[int], Iterable[Loss]],
        probe: Callable[[int], Tensor] | None,
    ) -> None:
        """Move values along the gradients that a step's parts have left.

        Args:
            total: of the parts' losses.
            count: of the parts.
            losses: of the step.
            probe: see `run`.
        """
        free, state = self._free, self.state
        gradients = [leaf.free.grad for leaf in free.leaves.values() if leaf.free.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        # Skipped as a whole: what sound parts of the step left in the gradients goes too.
        if not (math.isfinite(total) and math.isfinite(norm) and count):
            state.skipped += 1
            for _ in free.take_dense_gradients():
                pass
            return
        for gradient in gradients:
            gradient /= count
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = self._rate(state.step) * rate
        self.optimizer.step()
        if self.codes is not None:
            self.codes.follow(count, self._rate(state.step) / self._config.learning_rate)
            self._change_codes(state.step, losses(state.step), probe)
        state.train_total += total / count
        state.train_count += 1

    def _add_up(self, total: float, count: int) -> tuple[float, int]:
        """Add up losses and gradients of a step over all processes; its parts are divided."""
        if team().size == 1 or not self._divided:
            return total, count
        leaves = list(self._free.leaves.values())
        for leaf in leaves:
            if leaf.free.grad is None:
                leaf.free.grad = torch.zeros_like(leaf.free)
            team().add_up(leaf.free.grad)
        summed, parts = team().total([total, float(count)])
        return summed, int(parts)

    def _change_codes(
        self, step: int, parts: Iterable[Loss], probe: Callable[[int], Tensor] | None
    ) -> None:
        """Take a step on codes, after that on values."""
        codes, free = self.codes, self._free
        if codes is None or not codes.is_due(step + 1):
            return
        if codes.wants_probe:
            assert probe is not None
            leaves = free.leaves.values()
            gradients = [leaf.free.grad for leaf in leaves]
            free.write(free.values())
            with free.gradients():
                probe(step).backward()
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.free.grad = gradient
            codes.follow_probe()
        again = list(parts)

        def loss() -> float:
            free.write(free.values())
            return sum(float(part()) for part in again)

        codes.try_changes(loss)

    def _rate(self, step: int) -> float:
        config = self._config
        factor = rate_factor(config.schedule, config.warmup, step, self._steps)
        return config.learning_rate * factor

    def _validate(self, validate: Callable[[], float]) -> None:
        """Measure the values as storage would round them, and keep them if they are the best."""
        state = self.state
        try:
            stored = self._free.stored()
        except StorageRangeError:
            state.stopped = "not finite"
            return
        self._free.write(stored)
        loss = validate()
        self._note(loss)
        if loss < state.best_loss:
            state.best = self._free.snapshot(stored)
            state.best_loss, state.best_step = loss, state.step
            state.best_changed = self._free.changed_codes()
            state.worse = 0
            return
        state.worse += 1
        if self._config.patience is not None and state.worse >= self._config.patience:
            state.stopped = "no gain"

    def _note(self, validation_loss: float) -> None:
        state = self.state
        mean = state.train_total / state.train_count if state.train_count else None
        state.points.append(
            CurvePoint(
                stage=self._stage,
                block=self._block,
                epoch=state.step / self._an_epoch,
                step=state.step,
                train_loss=mean,
                validation_loss=validation_loss,
                learning_rate=self._rate(state.step - 1) if state.step else 0.0,
                seconds=state.seconds,
                validation_perplexity=self._perplexity(),
                changed_codes=self._free.changed_codes(),
            )
        )
        state.train_total, state.train_count = 0.0, 0

    def _summary(self) -> TrainingSummary:
        state = self.state
        return TrainingSummary(
            steps=state.step,
            best_step=state.best_step,
            first_loss=state.first_loss,
            best_loss=state.best_loss,
            skipped=state.skipped,
            stopped=state.stopped,
            trained_values=self._free.count,
            seconds=state.seconds,
            changed_codes=None if self.codes is None else state.best_changed or 0.0,
        )
