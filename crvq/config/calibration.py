"""Calibration: the text whose activations show which errors matter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
