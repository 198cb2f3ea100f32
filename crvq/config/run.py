"""A whole run, typed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crvq.config.calibration import CalibrationConfig
from crvq.config.evaluation import EvalConfig
from crvq.config.finetune import FinetuneConfig
from crvq.config.model import ModelConfig
from crvq.config.strict import StrictModel
from crvq.config.tracking import TrackingConfig


class BudgetConfig(StrictModel):
    """The bit budget: average bits over quantized weights, everything counted."""

    name: str = "layout"
    bits: float | None = Field(
        None, gt=0, le=16, description="null: the method's own layout decides"
    )
    out_of_reach: Literal["error", "nearest"] = Field(
        "error", description="what to do where the method cannot come to that many bits"
    )


class RunConfig(StrictModel):
    """Everything that a run needs to know; `crvq.pipeline` takes nothing else."""

    experiment: str = Field(
        "default", pattern=r"^[\w.-]+$", description="the folder of results/ that a run goes to"
    )
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    activation_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="type of forward passes; auto is bfloat16 where the processor computes in it",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; null: torch's default")
    force: bool = Field(False, description="compute again although a complete record exists")
    eval_only: str | None = Field(
        None,
        description="folder of a finished run: measure what eval asks for beyond its record, and "
        "add it there; nothing is quantized",
    )
    results_dir: str = "results"
    cache_dir: str | None = Field(
        None, description="downloads; null: $CRVQ_CACHE, else the user's cache folder"
    )
    model: ModelConfig
    budget: BudgetConfig = BudgetConfig()
    method: str = Field(description="the name of a registered method")
    method_params: Any = Field(description="the method's own parameters, typed by the method")
    calibration: CalibrationConfig
    finetune: FinetuneConfig = FinetuneConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()
