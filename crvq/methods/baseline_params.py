"""Parameters of the methods that CRVQ is compared with.

They stand apart from the methods so that a command line is checked without importing torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import StrictModel
from crvq.methods.additive_params import AdditiveParams


class RtnParams(StrictModel):
    """The ``rtn`` group of the configuration."""

    bits: int = Field(3, ge=1, le=8, description="of a weight's code")
    group_size: int | None = Field(
        128, ge=1, description="columns that share a row's grid; null: the whole row"
    )


class GptqParams(RtnParams):
    """The ``gptq`` group of the configuration (arXiv 2210.17323)."""

    act_order: bool = Field(
        False,
        description="columns in order of H's diagonal, descending; their order is stored too",
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class GptvqParams(StrictModel):
    """The ``gptvq`` group of the configuration (arXiv 2402.15319, section 3)."""

    vector_size: Literal[1, 2, 4, 8] = Field(2, description="d: weights that one code stands for")
    codebook_bits: int = Field(4, ge=1, le=12, description="index bits of each codebook")
    columns: int = Field(256, ge=8, multiple_of=8, description="columns that share a codebook")
    weights_per_codebook: int = Field(
        2048, ge=8, description="columns times rows that share a codebook"
    )
    scale_block: int | None = Field(
        None, ge=8, multiple_of=8, description="weights that share a scale of 4 bits; null: none"
    )
    em_iterations: int = Field(50, ge=0, description="of k-means for each codebook")
    update_steps: int = Field(
        25, ge=0, description="of the codebook update after all columns are coded"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )

    @model_validator(mode="after")
    def _vectors_outnumber_entries(self) -> Self:
        least = self.vector_size * 2**self.codebook_bits
        if self.weights_per_codebook < least:
            raise ValueError(
                f"weights_per_codebook={self.weights_per_codebook} is fewer than the "
                f"{2**self.codebook_bits} entries of {self.vector_size} weights of a codebook; "
                f"set it to {least} at least, or codebook_bits lower"
            )
        return self


class BillmParams(StrictModel):
    """The ``billm`` group of the configuration (arXiv 2402.04291)."""

    block_size: int | None = Field(
        128, ge=1, description="columns that share scales; null: the whole row"
    )
    feedback_columns: int = Field(
        128, ge=1, description="columns rounded before later ones compensate their errors"
    )
    most_salient: float = Field(
        0.383, ge=0, le=1, description="part of a block's columns that may be salient"
    )
    splitting: bool = Field(True, description="two groups of weights that are not salient")
    centres: bool = Field(True, description="a centre for each group besides its scale")
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class PbLlmParams(StrictModel):
    """The ``pb_llm`` group of the configuration (arXiv 2310.00034)."""

    salient_ratio: float = Field(0.1, ge=0, le=1, description="part of weights that are salient")
    salient_bits: int = Field(8, ge=1, le=8, description="of a salient weight's code")
    salient_metric: Literal["magnitude", "hessian"] = Field(
        "magnitude", description="salient are the largest |w|, or the largest w² / [H⁻¹]_jj"
    )
    group_size: int | None = Field(
        None, ge=1, description="columns that share a row's scale; null: the whole row"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class AqlmParams(AdditiveParams):
    """The ``aqlm`` group of the configuration (arXiv 2401.06118, section 3)."""

    codebooks: int = Field(1, ge=1, le=16, description="m: codebooks, each for every group")
    relative_gain: float = Field(0.02, ge=0, lt=1, description="stop below this gain per round")


class FullPrecisionParams(StrictModel):
    """There is nothing to set."""
