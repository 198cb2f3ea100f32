"""A whole run, typed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from crvq.config.calibration import CalibrationConfig
from crvq.config.evaluation import EvalConfig
from crvq.config.finetune import FinetuneConfig
from crvq.config.model import ModelConfig
from crvq.config.rotation import RotationConfig
from crvq.config.strict import Neutral, NeutralAt, StrictModel, usable_path
from crvq.config.tracking import TrackingConfig


class BudgetConfig(StrictModel):
    """The bit budget: average bits over quantized weights, everything counted."""

    bits: float | None = Field(
        None, gt=0, le=16, description="null: the method's own layout decides"
    )
    if_infeasible: Annotated[Literal["error", "nearest"], NeutralAt("error")] = Field(
        "error", description="what to do where the method cannot come to that many bits"
    )


class NameConfig(StrictModel):
    """What a run is called in tables, figures and on the page."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=60,
        description="null: the preset or layout of its method, and what sets it apart from the "
        "runs shown with it",
    )

    @field_validator("name")
    @classmethod
    def _name_fits_a_line(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or not name.strip()):
            raise ValueError(f"{name!r} is no name: give one line of text, such as run.name=mine")
        return name


class RunConfig(StrictModel):
    """Everything that a run needs to know; `crvq.pipeline` takes nothing else."""

    experiment: Annotated[str, Neutral] = Field(
        "default", max_length=100, description="the folder of results/ that a run goes to"
    )
    run: Annotated[NameConfig, Neutral] = NameConfig()
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    activation_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="type of forward passes; auto is bfloat16 where the processor computes in it",
    )
    threads: Annotated[int | None, Neutral] = Field(
        None,
        ge=1,
        description="CPU threads; null: torch's default. Sums over another number of threads may "
        "differ in the last bits; the record keeps the number",
    )
    placement: Annotated[Literal["auto", "device", "host", "disk"], Neutral] = Field(
        "auto",
        description="device: the whole model is loaded; host: its blocks are read from disk one "
        "at a time, and hidden states kept in host memory; disk: hidden states on disk too (in "
        "cache_dir); auto: device where the model fits. The result is the same, bit for bit",
    )
    dry_run: Annotated[bool, Neutral] = Field(
        False, description="say what would be run, and its bits, memory and time; run nothing"
    )
    force: Annotated[bool, Neutral] = Field(
        False, description="compute again although a complete record exists"
    )
    if_locked: Annotated[Literal["wait", "error"], Neutral] = Field(
        "wait",
        description="what to do when another process works on the same run: wait for it, or stop "
        "with an error that says which process it is",
    )
    reuse: Annotated[Literal["none", "reference"], Neutral] = Field(
        "none",
        description="reference: take a finished record of the same identity from "
        "results/reference instead of computing; its rows say where and when it was made",
    )
    eval_only: Annotated[str | None, Neutral] = Field(
        None,
        description="folder of a finished run: measure what eval asks for beyond its record, and "
        "add it there; nothing is quantized",
    )
    results_dir: Annotated[str, Neutral] = "results"
    cache_dir: Annotated[str | None, Neutral] = Field(
        None, description="downloads; null: $CRVQ_CACHE, else the user's cache folder"
    )
    model: ModelConfig
    budget: BudgetConfig = BudgetConfig()
    method: str = Field(description="the name of a registered method")
    method_params: Any = Field(description="the method's own parameters, typed by the method")
    overrides: Annotated[dict[str, dict[str, Any]] | None, NeutralAt(None)] = Field(
        None,
        description="other parameters of the method for some linear layers, by pattern of their "
        "full name: '{*.down_proj: {codebook_bits: 10}, model.layers.0.*: {critical_ratio: 0.1}}'",
    )
    rotation: Annotated[RotationConfig, NeutralAt(RotationConfig())] = RotationConfig()
    calibration: CalibrationConfig
    finetune: FinetuneConfig = FinetuneConfig()
    # A run is its quantized model: measurements asked for later are added to the same record.
    eval: Annotated[EvalConfig, Neutral] = EvalConfig()
    tracking: Annotated[TrackingConfig, Neutral] = TrackingConfig()

    @field_validator("experiment")
    @classmethod
    def _experiment_is_a_folder_name(cls, name: str) -> str:
        if name == "reference":
            raise ValueError(
                "results_dir/reference holds the records that are shipped; give the experiment "
                "another name, such as experiment=my-reference"
            )
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            fitting = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "my-experiment"
            raise ValueError(
                "the name of a folder in results_dir has letters, digits, '-', '_' and '.', and "
                f"begins with a letter, a digit or '_'; set experiment={fitting}"
            )
        return name

    @field_validator("overrides")
    @classmethod
    def _no_overrides_are_none(cls, overrides: dict[str, Any] | None) -> dict[str, Any] | None:
        return overrides or None

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", name):
            raise ValueError("allowed: auto, cpu, cuda, cuda:0, cuda:1, ...")
        return name

    @field_validator("results_dir", "cache_dir", "eval_only")
    @classmethod
    def _path_is_usable(cls, path: str | None) -> str | None:
        return usable_path(path)

    def identity(self) -> dict[str, Any]:
        """Return what changes the quantized model, as JSON can hold it.

        Of the device only its kind counts (``cuda:1`` is ``cuda``); ``auto`` stays as asked, so
        that a sweep can be continued on another machine. ``calibration.batch_size`` counts only
        with fine-tuning, whose split of windows depends on it.

        Raises:
            TypeError: ``method_params`` is not typed by its method yet.
        """
        if not isinstance(self.method_params, StrictModel):
            raise TypeError(
                f"method_params is a {type(self.method_params).__name__}; the method must type it "
                "(a StrictModel) before a run can be named"
            )
        values = super().identity()
        values["device"] = self.device.split(":")[0]
        if not self.finetune.asked:
            values["calibration"].pop("batch_size")
        return values
