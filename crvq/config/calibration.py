"""Calibration: the text whose activations show which errors matter."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import NeutralAt
from crvq.config.text import TextConfig


class CalibrationConfig(TextConfig):
    """A text source, how many windows of it are used, and how activations flow."""

    part: Literal["calibration", "heldout"] = "calibration"
    split: str = Field("train", description="hub: split")
    samples: int = Field(8, ge=1, description="number of windows of text")
    length: int = Field(1024, ge=2, description="tokens in a window")
    seed: int = Field(0, ge=0, description="seed of the draw of windows")
    bos: Literal["auto", "none", "each_window"] = Field(
        "auto", description="whether each window begins with BOS; as eval.perplexity.NAME.bos"
    )
    batch_size: int = Field(1, ge=1, description="windows in one forward pass")
    stream: Literal["quantized", "full_precision"] = Field(
        "quantized",
        description="whether a block sees inputs made by the already quantized blocks before it",
    )
    target_correction: Annotated[float, NeutralAt(0.0)] = Field(
        0.0,
        ge=0,
        le=1,
        description="how far weights are moved, before they are quantized, toward giving the "
        "full-precision model's outputs for inputs made by quantized blocks (QEP, GPTAQ); 0: not",
    )
    target_damping: Annotated[float, NeutralAt(0.01)] = Field(
        0.01,
        gt=0,
        le=1,
        description="target_correction: of H's inverse, relative to H's mean diagonal",
    )

    @model_validator(mode="after")
    def _errors_to_correct(self) -> Self:
        if self.target_correction and self.stream == "full_precision":
            raise ValueError(
                f"target_correction={self.target_correction:g} makes up for errors of earlier "
                "blocks, and stream=full_precision shows none; set stream=quantized, or "
                "target_correction=0"
            )
        return self
