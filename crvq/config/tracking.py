"""Tracking: Weights & Biases beside the run record."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crvq.config.strict import StrictModel


class TrackingConfig(StrictModel):
    """The tracking group. The run record is always written; W&B is a mirror of it."""

    mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="wandb's mode; offline runs are uploaded later with `wandb sync`"
    )
    project: str = "crvq"
    entity: str | None = None
    group: str | None = Field(None, description="wandb's group; a sweep's jobs share one")
    tags: tuple[str, ...] = ()
    timeout_seconds: float = Field(
        30.0, gt=0, description="after so long without an answer a run goes on without W&B"
    )
