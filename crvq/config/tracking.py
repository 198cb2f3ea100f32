"""Tracking: Weights & Biases or trackio next to the run record."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import StrictModel


class TrackingConfig(StrictModel):
    """The tracking group. The run record is always written; W&B or trackio is a mirror of it."""

    backend: str = Field(
        "wandb",
        description="wandb, or trackio: W&B's calls and a dashboard on this machine, no account",
    )
    mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="wandb's mode; offline runs are uploaded later with `wandb sync`"
    )
    project: str = "crvq"
    entity: str | None = None
    group: str | None = Field(None, description="wandb's group; a sweep's jobs share one")
    tags: tuple[str, ...] = ()
    timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=86400,
        description="after so long without an answer a run continues without its mirror",
    )

    @model_validator(mode="after")
    def _trackio_stays_here(self) -> Self:
        if self.backend == "trackio" and self.mode == "online":
            raise ValueError(
                "tracking.mode=online is W&B's; trackio keeps its files on this machine: set "
                "tracking.mode=offline, or tracking.backend=wandb"
            )
        return self
