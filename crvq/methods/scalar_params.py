"""Parameters of scalar quantizers from the literature, apart from torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import RtnParams


class SqueezeLlmParams(StrictModel):
    """The ``squeezellm`` group of the configuration (arXiv 2306.07629)."""

    bits: int = Field(3, ge=1, le=8, description="of a weight's code: each row has 2^bits values")
    outlier_ratio: float = Field(
        0.004, ge=0, le=0.5, description="part of the weights, largest |w| first, kept in float16"
    )
    sensitive_ratio: float = Field(
        0.0005, ge=0, le=0.5, description="part of the weights, largest H_jj w² first, kept too"
    )
    iterations: int = Field(50, ge=0, description="of weighted k-means, for each row")

    @model_validator(mode="after")
    def _some_are_dense(self) -> Self:
        kept = self.outlier_ratio + self.sensitive_ratio
        if kept > 0.5:
            raise ValueError(
                f"outlier_ratio + sensitive_ratio = {kept:g}: at most half of the weights may be "
                "kept in float16; lower one of them"
            )
        return self


class OmniquantParams(RtnParams):
    """The ``omniquant`` group of the configuration (arXiv 2308.13137): weight clipping alone."""

    steps: int = Field(
        100, ge=0, description="of AdamW on the clipping factors; 0: round to nearest"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="of AdamW")


class ObcParams(RtnParams):
    """The ``obc`` group of the configuration (arXiv 2208.11580)."""

    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )
    order: Literal["greedy", "costly_first"] = Field(
        "greedy",
        description="of a row's weights: the paper's, least loss first, or the largest "
        "step^2 / [H^-1]_jj first",
    )


class GqsaParams(StrictModel):
    """The ``gqsa`` group of the configuration (arXiv 2412.17560)."""

    bits: int = Field(4, ge=1, le=8, description="of a kept weight's code")
    group_size: int = Field(16, ge=1, description="columns that are pruned or kept together")
    sparsity: float = Field(0.5, ge=0, lt=1, description="part of the groups that is pruned")
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class CerwuParams(StrictModel):
    """The ``cerwu`` group of the configuration (arXiv 2505.18758)."""

    rate: float = Field(
        2.0, gt=0, le=8, description="bits per weight, all counted, that each linear may take"
    )
    levels: int = Field(15, ge=3, le=255, description="of the symmetric grid, an odd number")
    passes: int = Field(8, ge=1, description="of rounding, to find the price of a bit")
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )

    @model_validator(mode="after")
    def _levels_are_odd(self) -> Self:
        if self.levels % 2 == 0:
            raise ValueError(f"levels={self.levels}: must be odd, so that zero is a level")
        return self


class OpqParams(StrictModel):
    """The ``opq`` group of the configuration (arXiv 2205.11141)."""

    bits: int = Field(4, ge=1, le=8, description="of a kept weight's code")
    sparsity: float = Field(0.5, ge=0, lt=1, description="part of a block's weights that is pruned")


class RatioOptParams(StrictModel):
    """The ``ratio_opt`` group of the configuration (arXiv 2511.17801)."""

    bits: int = Field(4, ge=1, le=8, description="of a high-impact weight's code")
    other_bits: int = Field(2, ge=1, le=8, description="of all other weights' codes")
    group_size: int | None = Field(
        128, ge=1, description="columns of a row that share the others' grid; null: the whole row"
    )
    ratio: float = Field(0.03, ge=0, le=0.3, description="of high-impact weights, over a block")
    allocate: bool = Field(True, description="choose each layer's ratio; false: the same for all")
    steps: int = Field(100, ge=0, description="of AdamW on the others' clipping factors")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="of AdamW")
