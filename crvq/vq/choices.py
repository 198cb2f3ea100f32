"""The choices that vector quantization offers by name, known without importing torch."""

from __future__ import annotations

from typing import Literal

CodebookDtype = Literal["float16", "int8"]
"""How codebooks are stored (`crvq.vq.storage`)."""

RoundingPolicy = Literal["at_least_one", "floor", "nearest", "ceil"]
"""How a part of the channels becomes whole groups (`crvq.vq.channel_order`)."""

ReorderPolicy = Literal["sorted", "stratified", "critical_first", "none"]
"""The order in which channels are coded (`crvq.vq.channel_order`)."""

ImportanceName = Literal[
    "error_activation",
    "max_error_over_inverse",
    "max_error_times_inverse",
    "weight",
    "activation",
    "random",
]
"""The forms of importance (`crvq.vq.importance`)."""
