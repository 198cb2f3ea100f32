"""Parameters that all methods with additive codes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from crvq.config.strict import StrictModel
from crvq.vq.choices import CodebookDtype

if TYPE_CHECKING:
    from crvq.vq.alternate import AlternationSettings


class AdditiveParams(StrictModel):
    """How vectors are coded, and how hard codes and codebooks are searched."""

    group_size: int = Field(8, ge=1, le=64, description="d: weights that one code stands for")
    codebook_bits: int = Field(8, ge=1, le=16, description="index bits of a codebook")
    codebook_dtype: CodebookDtype = Field("float16", description="how codebooks are stored")
    search: Literal["descent", "feedback_start", "feedback"] = Field(
        "feedback_start", description="error-feedback code search never, first, or every round"
    )
    beam: int = Field(1, ge=1, le=64, description="partial codes kept by the feedback search")
    max_rounds: int = Field(8, ge=0, description="rounds of the alternation at most")
    relative_gain: float = Field(0.03, ge=0, lt=1, description="stop below this gain per round")
    codebook_steps: int = Field(4, ge=1, description="conjugate-gradient steps per round")
    kmeans_iterations: int = Field(8, ge=0)
    kmeans_sample: int = Field(16384, ge=1, description="sub-vectors that k-means looks at")
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )

    def alternation(self, train_codebooks: bool = True) -> AlternationSettings:
        """Return the alternation that these parameters ask for."""
        from crvq.vq.alternate import AlternationSettings  # torch: not needed to read a command

        return AlternationSettings(
            max_rounds=self.max_rounds,
            relative_gain=self.relative_gain,
            codebook_steps=self.codebook_steps,
            beam=self.beam,
            search=self.search,
            codebook_dtype=self.codebook_dtype,
            train_codebooks=train_codebooks,
        )
