"""Parameters of ternary methods, apart from torch."""

from __future__ import annotations

from pydantic import Field

from crvq.config.strict import StrictModel


class Pt2LlmParams(StrictModel):
    """The ``pt2_llm`` group of the configuration (arXiv 2510.03267)."""

    block_size: int | None = Field(
        128, ge=1, description="columns that share a centre and a scale; null: the whole row"
    )
    fit_iterations: int = Field(
        10, ge=0, description="of iterative ternary fitting, at most; 0: its start"
    )
    grid_alignment: bool = Field(True, description="centres and scales by least squares under H")
    reorder: bool = Field(
        True, description="blocks of similar columns (cosine); their order is stored too"
    )
    feedback_columns: int = Field(
        128, ge=1, description="columns rounded before later ones answer their errors"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class PtqtpParams(StrictModel):
    """The ``ptqtp`` group of the configuration (arXiv 2509.16989)."""

    planes: int = Field(2, ge=1, le=3, description="trit-planes that add up to a weight")
    group_size: int | None = Field(
        128, ge=1, description="columns that share scales; null: the whole row"
    )
    iterations: int = Field(50, ge=0, description="of scales and trits in turn, at most")
    tolerance: float = Field(1e-4, ge=0, lt=1, description="stop below this change of the scales")
    error_feedback: bool = Field(
        False, description="columns answer the errors of earlier ones (not in the paper)"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )
