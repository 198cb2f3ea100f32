"""Parameters of binary methods from the literature, apart from torch."""

from __future__ import annotations

from pydantic import Field

from crvq.config.strict import StrictModel


class ArbLlmParams(StrictModel):
    """The ``arb_llm`` group of the configuration (arXiv 2410.03129)."""

    block_size: int | None = Field(
        128, ge=1, description="columns that share row scales; null: the whole row"
    )
    feedback_columns: int = Field(
        128, ge=1, description="columns rounded before later ones answer their errors"
    )
    most_salient: float = Field(
        0.383, ge=0, le=1, description="part of a block's columns that may be salient"
    )
    splitting: bool = Field(True, description="two groups of weights in every column, by magnitude")
    refine_iterations: int = Field(
        15, ge=0, description="of row scales, column scales and signs in turn"
    )
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )


class OneBitParams(StrictModel):
    """The ``onebit`` group of the configuration (arXiv 2402.11295)."""

    refine_iterations: int = Field(
        10, ge=0, description="of row and column scales in turn, under H; 0: the SVID start"
    )


class NanoQuantParams(StrictModel):
    """The ``nanoquant`` group of the configuration (arXiv 2602.06694)."""

    bits: float = Field(
        1.0, gt=0, le=16, description="of a weight, all counted; sets the rank of each linear"
    )
    iterations: int = Field(100, ge=0, description="of ADMM; the authors: 400")
    regularization: float = Field(
        0.03, ge=0, le=1, description="ridge of ADMM's regressions, relative to the Gram matrix"
    )
    shrinkage: float = Field(
        0.4, ge=0, le=1, description="of the inputs' importance towards its mean"
    )
    refine_iterations: int = Field(
        10, ge=0, description="of row and column scales in turn, under H, after ADMM"
    )


class Fairy2iParams(StrictModel):
    """The ``fairy2i`` group of the configuration (arXiv 2512.02901)."""

    stages: int = Field(2, ge=1, le=4, description="of rounding to phases, 1 bit per weight each")
    fit_scales: bool = Field(True, description="scales by least squares under H in the end")


class Ptq161Params(StrictModel):
    """The ``ptq161`` group of the configuration (arXiv 2502.13179)."""

    salient_ratio: float = Field(
        0.2, ge=0, le=1, description="part of the in features kept on grids, largest E[x^2] first"
    )
    salient_bits: int = Field(4, ge=1, le=8, description="of a salient weight's code")
    fit_iterations: int = Field(
        20, ge=0, description="of row and column scales in turn, under H; 0: the authors' start"
    )
