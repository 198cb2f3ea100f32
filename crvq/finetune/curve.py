"""What is kept of a training's course."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """One validation: a row of ``finetune.csv``."""

    stage: str
    """``block`` or ``end_to_end``."""
    block: int | None
    """Which block; None for the whole model."""
    epoch: float
    """Passes over the training windows so far."""
    step: int
    """Steps so far; 0 is before training."""
    train_loss: float | None
    """Mean over the steps since the point before; None at the start."""
    validation_loss: float
    """With values rounded to storage, as they would be kept."""
    learning_rate: float
    """At the last step."""
    seconds: float
    """Since the training began."""
    validation_perplexity: float | None = None
    """Of the validation windows' own tokens; None for a block, which predicts none."""
    changed_codes: float | None = None
    """Part of the groups whose codes differ from the start's; None where codes are fixed."""


@dataclass(frozen=True)
class TrainingSummary:
    """A training in a few numbers."""

    steps: int
    best_step: int
    """0: the start was best, and nothing was changed."""
    first_loss: float
    """Validation loss before."""
    best_loss: float
    """Validation loss of what is kept."""
    skipped: int
    """Steps whose loss or gradient was not finite."""
    stopped: str
    """Why it ended: ``done``, ``no gain`` or ``not finite``."""
    trained_values: int
    """Numbers that were free."""
    seconds: float
    changed_codes: float | None = None
    """Part of the groups whose codes differ from the start's in what is kept; None: fixed."""

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        early = f", stopped early ({self.stopped})" if self.stopped != "done" else ""
        moved = self.changed_codes
        changed = "" if moved is None else f", {moved:.1%} of the codes changed"
        return (
            f"validation loss {self.first_loss:.4g} to {self.best_loss:.4g} "
            f"(step {self.best_step} of {self.steps}{skipped}{early}){changed}, "
            f"{self.seconds:.1f} s"
        )
