"""Notes on a quantized linear: what its input or its storage did to it."""

from __future__ import annotations

from crvq.weights.quantized import QuantizedWeight


def dead_channels_notes(count: int) -> list[str]:
    """Return the note on ``count`` dead channels of a linear's input; none where there are none."""
    if not count:
        return []
    named = "1 dead channel" if count == 1 else f"{count} dead channels"
    return [f"{named} (never active on the calibration text)"]


def clipped_notes(weight: QuantizedWeight) -> list[str]:
    """Return the note on numbers that float16 could not hold; none where all fit."""
    return [
        f"{count} numbers of {field} are clipped to 65504, the largest that float16 holds: these "
        "weights are larger than the format stores"
        for field, count in weight.clipped().items()
    ]
