"""What is told of channels that calibration never saw active."""

from __future__ import annotations


def dead_channels_notes(count: int) -> list[str]:
    """The note on ``count`` dead channels of a linear's input; none where there are none."""
    if not count:
        return []
    named = "1 dead channel" if count == 1 else f"{count} dead channels"
    return [f"{named} (never active on the calibration text)"]
