"""CRVQ's parameters."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import NeutralAt
from crvq.methods.additive_params import AdditiveParams
from crvq.vq.choices import ImportanceName, ReorderPolicy, RoundingPolicy


class CrvqParams(AdditiveParams):
    """The ``crvq`` group of the configuration (arXiv 2412.09282, section 3)."""

    group_size: int = Field(4, ge=1, le=64, description="d: weights that one code stands for")
    codebook_bits: int = Field(8, ge=1, le=16, description="index bits of the basic codebook")
    extended_codebooks: int = Field(
        3, ge=0, le=15, description="m - 1: codebooks for critical channels only"
    )
    extended_bits: int = Field(8, ge=1, le=16, description="index bits of extended codebooks")
    critical_ratio: float = Field(0.02, ge=0, le=1, description="λ: part of channels critical")
    critical_rounding: RoundingPolicy = Field(
        "at_least_one", description="how λ·in/d becomes whole groups; floor is the authors' code"
    )
    importance: ImportanceName = Field("error_activation", description="how channels are ranked")
    reorder: ReorderPolicy = Field(
        "stratified", description="order of the other channels; sorted is the paper's"
    )
    codebook_scope: Literal["linear", "block", "model"] = Field(
        "linear",
        description="who shares codebooks: no one (the paper), a block's linears, or all linears "
        "of a kind",
    )
    warm_start: Annotated[bool, NeutralAt(False)] = Field(
        False,
        description="codebook_scope=linear: a linear's codebooks start from those of its kind in "
        "the block before (after fine-tuning, if any) instead of k-means",
    )
    survey_blocks: int = Field(
        4, ge=1, description="codebook_scope=model: blocks that codebooks are fitted on"
    )

    allocation: Annotated[Literal["fixed", "model"], NeutralAt("fixed")] = Field(
        "fixed",
        description="fixed: codes of codebook_bits everywhere; model: each linear's own width and "
        "each block's own vector length (allocation_group_sizes), "
        "chosen by measured loss for the model's total of bits (budget.bits, or as many as fixed "
        "codes would take)",
    )
    allocation_objective: Annotated[Literal["fisher", "relative"], NeutralAt("fisher")] = Field(
        "fisher",
        description="allocation=model: losses weighted by the squared gradient of the model's "
        "loss, or relative to each linear's own outputs",
    )
    allocation_widths: Annotated[tuple[int, int], NeutralAt((6, 12))] = Field(
        (6, 12), description="allocation=model: the narrowest and the widest codes"
    )
    allocation_group_sizes: Annotated[tuple[int, ...], NeutralAt(())] = Field(
        (),
        description="allocation=model: vector lengths that each block chooses from; empty: "
        "group_size alone",
    )
    allocation_blocks: Annotated[int, NeutralAt(4)] = Field(
        4, ge=1, description="allocation=model: blocks that losses are measured on"
    )
    allocation_rows: Annotated[int, NeutralAt(4)] = Field(
        4, ge=1, description="allocation=model: every so many rows of their linears are"
    )
    allocation_bits: Annotated[float | None, NeutralAt(None)] = Field(
        None, gt=0, description="allocation=model: bits per weight in all; budget.bits sets it"
    )

    @model_validator(mode="after")
    def _widths_can_be_divided(self) -> Self:
        low, high = self.allocation_widths
        if not 1 <= low < high <= 16:
            raise ValueError(
                f"allocation_widths=[{low},{high}]: give the narrowest and the widest, from 1 to 16"
            )
        wrong = [d for d in self.allocation_group_sizes if not 1 <= d <= 64]
        if wrong or len(set(self.allocation_group_sizes)) < len(self.allocation_group_sizes):
            raise ValueError(
                f"allocation_group_sizes={list(self.allocation_group_sizes)}: give different "
                "vector lengths from 1 to 64"
            )
        if self.allocation == "model" and self.codebook_scope != "block":
            raise ValueError(
                "allocation=model divides bits among linears that share codebooks; set "
                f"codebook_scope=block (it is {self.codebook_scope})"
            )
        return self

    @model_validator(mode="after")
    def _codebooks_to_start_from(self) -> Self:
        if self.warm_start and self.codebook_scope != "linear":
            raise ValueError(
                f"warm_start=true needs codebooks of each linear, not codebook_scope="
                f"{self.codebook_scope}; set codebook_scope=linear, or warm_start=false"
            )
        return self

    @model_validator(mode="after")
    def _order_allows_critical(self) -> Self:
        if self.reorder == "none" and self.critical_ratio > 0 and self.extended_codebooks > 0:
            raise ValueError(
                "reorder=none keeps channels where they lie, so none can be critical; "
                "set critical_ratio=0, or reorder=critical_first (natural order for the others)"
            )
        return self
