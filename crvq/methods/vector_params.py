"""Parameters of vector quantizers from the literature, apart from torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import StrictModel


class VptqParams(StrictModel):
    """The ``vptq`` group of the configuration (arXiv 2409.17066)."""

    vector_size: Literal[1, 2, 4, 8, 16] = Field(
        4, description="v: rows of one column that share a code; rows are padded to a multiple"
    )
    codebook_bits: int = Field(8, ge=1, le=16, description="index bits of the main codebook")
    residual_bits: int = Field(
        0, ge=0, le=16, description="index bits of the residual codebook; 0: no such codebook"
    )
    outlier_ratio: float = Field(
        0.0, ge=0, lt=1, description="part of the columns, largest diag(H) first, with a codebook "
        "of their own"
    )  # fmt: skip
    outlier_vector_size: Literal[1, 2, 4, 8, 16] = Field(2, description="v of the outlier columns")
    outlier_bits: int = Field(8, ge=1, le=16, description="index bits of the outlier codebook")
    kmeans_weight: Literal["diag_h", "inverse"] = Field(
        "diag_h",
        description="what a vector weighs in k-means: diag(H) of its column, or 1 / diag(H⁻¹)",
    )
    kmeans_iterations: int = Field(30, ge=0, description="Lloyd iterations for each codebook")
    kmeans_sample: int = Field(1 << 17, ge=1, description="vectors that k-means looks at")
    update_steps: int = Field(
        25, ge=0, description="conjugate gradient steps on all codebooks once codes are fixed"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )

    @model_validator(mode="after")
    def _residual_needs_no_larger_codebook(self) -> Self:
        if self.residual_bits and self.vector_size == 1 and self.codebook_bits > 8:
            raise ValueError(
                f"residual_bits={self.residual_bits} with vector_size=1 and codebook_bits="
                f"{self.codebook_bits}: a scalar code of more than 8 bits leaves no residual; set "
                "residual_bits=0 or a larger vector_size"
            )
        return self


class QtipParams(StrictModel):
    """The ``qtip`` group of the configuration (arXiv 2406.11235)."""

    bits: int = Field(2, ge=1, le=4, description="k: of a weight's code")
    state_bits: int = Field(
        12,
        ge=6,
        le=16,
        description="L: bits that a weight depends on; time grows with 2^L (the paper: 16)",
    )
    code: Literal["1mad", "3inst"] = Field(
        "3inst", description="how a weight is computed from its state"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )
