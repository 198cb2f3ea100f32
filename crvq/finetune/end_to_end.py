"""End-to-end fine-tuning: the quantized model learns to predict as the full-precision one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crvq.config import CalibrationConfig
from crvq.config.finetune import EndToEndConfig, FinetuneConfig
from crvq.finetune.block import batches_of
from crvq.finetune.curve import TrainingSummary
from crvq.finetune.free_values import FreeValues
from crvq.finetune.losses import Divergence, NextTokenLoss, kl_probe, sliced_kl
from crvq.finetune.teacher import Student, Teacher
from crvq.finetune.training import Loss, Training, TrainingState
from crvq.finetune.training_file import load_training, save_training
from crvq.models.precision import forward_precision
from crvq.team import Team, team


def blockwise_windows(
    windows: Tensor, config: FinetuneConfig, calibration: CalibrationConfig
) -> Tensor:
    """Windows that go through the blocks, ``(n, length)``: training ones, then validation.

    Second moments come from the first ``calibration.samples`` of them.

    Args:
        windows: all that were drawn, ``(samples, length)``.
        config: the finetune group.
        calibration: the calibration group.
    """
    if config.block is None:
        return windows[: calibration.samples]
    whole, part = config.split(calibration, len(windows)), config.block_split(calibration)
    return torch.cat([windows[: part.train], windows[whole.train :][: part.validation]])


def end_to_end_windows(
    windows: Tensor, config: FinetuneConfig, calibration: CalibrationConfig
) -> tuple[Tensor, Tensor]:
    """Windows of the end-to-end stage that train and that validate, cut to its length.

    What validates here has trained no block.

    Args:
        windows: all that were drawn, ``(samples, length)``.
        config: the finetune group, ``end_to_end`` set.
        calibration: the calibration group.
    """
    assert config.end_to_end is not None
    length = config.end_to_end.length or windows.shape[1]
    pieces = windows.shape[1] // length
    train = config.split(calibration, len(windows)).train
    cut = windows[:, : pieces * length].reshape(len(windows), pieces, length)
    return cut[:train].flatten(0, 1), cut[train:].flatten(0, 1)


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks run with checkpointing inside, whatever their architecture; as before after it."""
    before: list[Any] = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


@dataclass(frozen=True)
class Distillation:
    """What a model is distilled from, and how."""

    student: Student
    blocks: Sequence[nn.Module]
    teacher: Teacher
    windows: Tensor
    """``(windows, length)`` token ids; those that train come first. The teacher knows all."""
    train: int
    """How many windows train; the rest validates."""
    config: EndToEndConfig
    activation_dtype: torch.dtype
    device: torch.device
    seed: int
    together: bool = False
    """The processes of a team divide each step's parts and the windows that validate."""

    def loss(self, indices: list[int]) -> Tensor:
        """Mean KL(teacher || student) over the positions of some windows, with a graph."""
        return self._divergence(indices, self.teacher.divergence(indices, self.student.head))

    def validation_loss(self, index: int, seen: NextTokenLoss) -> float:
        """The same of one window, which ``seen`` takes note of."""
        divergence = self.teacher.divergence([index], self.student.head)
        window = self.windows[index].to(self.device)
        return float(self._divergence([index], seen.watched(divergence, window)))

    def probe(self, index: int, generator: torch.Generator) -> Tensor:
        """A random scalar whose squared gradients are a window's hessian on average."""
        with forward_precision(self.device, self.activation_dtype):
            states = self._states([index])
            return kl_probe(states, self.student.head, generator)

    def _states(self, indices: list[int]) -> Tensor:
        return self.student.body(self.windows[indices].to(self.device)).flatten(0, 1)

    def _divergence(self, indices: list[int], divergence: Divergence) -> Tensor:
        with forward_precision(self.device, self.activation_dtype):
            return sliced_kl(self._states(indices), self.student.head, divergence)


@dataclass(frozen=True)
class Distilled:
    """How a distillation went."""

    summary: TrainingSummary
    state: TrainingState


def microbatches(
    indices: Sequence[int], size: int, processes: int = 1
) -> list[tuple[list[int], float]]:
    """Parts of a step and the factor of each one's mean loss.

    A step takes the mean over its parts, and an epoch's last part may be a smaller one; with the
    factors that is the mean over windows.

    Args:
        indices: of the step's windows.
        size: windows of a part.
        processes: that divide the parts. Each must compute as many, since blocks are divided too:
            parts with the factor 0 fill up.
    """
    parts = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    places = -(-len(parts) // processes) * processes
    shares = [(part, len(part) * places / len(indices)) for part in parts]
    return shares + [(parts[0], 0.0)] * (places - len(parts))


def distill(
    free: FreeValues,
    task: Distillation,
    steps: int,
    path: Path,
    identity: str,
    on_start: Callable[[int], None] = lambda step: None,
    on_step: Callable[[TrainingState], None] = lambda state: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Distilled:
    """Train free values by KL divergence (the authors' last stage, as in AQLM, arXiv 2401.06118).

    The model ends with the best values; the validation loss is never above that of the start.

    Args:
        free: of the whole model, in which its values lie.
        task: text, teacher and settings.
        steps: in all.
        path: where the state is saved every ``save_every`` steps, and resumed from; of several
            processes, process 0 writes and all read.
        identity: of all that the result depends on.
        on_start: called with the step that the training resumes from.
        on_step: called after each step.
        on_message: called with a line about a damaged state and what that costs.
    """
    config = task.config
    an_epoch = -(-task.train // config.batch_size)
    workers = team() if task.together else Team()
    training = Training(
        free,
        config,
        steps,
        config.validate_every,
        an_epoch,
        "end_to_end",
        divided=task.together,
        seed=task.seed,
    )
    resumption = load_training(path, training, free, identity)
    if resumption.message is not None:
        on_message(resumption.message)
    on_start(training.state.step)

    def losses(step: int) -> Iterator[Loss]:
        indices = batches_of(step, task.train, config.batch_size, task.seed)
        parts = microbatches(indices, config.microbatch, workers.size)
        for part, share in parts[workers.rank :: workers.size]:
            yield lambda part=part, share=share: share * task.loss(part)  # type: ignore[misc]

    def probe(step: int) -> Tensor:
        index = batches_of(step, task.train, config.batch_size, task.seed)[0]
        return task.probe(index, torch.Generator().manual_seed((task.seed + step) % 2**63))

    seen = NextTokenLoss()

    @torch.no_grad()
    def validate() -> float:
        nonlocal seen
        seen = NextTokenLoss()
        held = range(task.train, len(task.windows))
        own = held[workers.rank :: workers.size]
        total = sum(task.validation_loss(index, seen) for index in own)
        for _ in range(len(own), -(-len(held) // workers.size)):
            task.validation_loss(held[0], NextTokenLoss())  # others compute one more
        seen.add_up(workers)
        return workers.total([total])[0] / len(held)

    def settle(state: TrainingState) -> None:
        due = state.step % config.save_every == 0 or state.step == steps
        if workers.rank == 0 and (due or state.stopped != "done"):
            save_training(path, training, free, identity)
        on_step(state)

    with recomputed(task.blocks) if config.gradient_checkpointing else nullcontext():
        summary = training.run(losses, validate, settle, lambda: seen.perplexity(), probe)
    return Distilled(summary, training.state)
