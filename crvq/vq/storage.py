"""What storage holds: numbers in the range of float16, codebooks in half precision or 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.choices import CodebookDtype

LARGEST_HALF = torch.finfo(torch.float16).max
"""65504."""
SMALLEST_HALF = 2.0**-24
"""The smallest positive number, a subnormal: 6e-8."""


class StorageRangeError(ValueError):
    """A number is not finite, or lies outside of what its storage holds."""


def to_float16(values: Tensor, what: str = "a stored number") -> Tensor:
    """Round to the nearest float16, subnormals and zero included; clip at ±65504.

    Rounding to nearest never makes a number more than twice as large (numbers below half the
    smallest subnormal become zero). So a row whose scale is the least-squares optimum loses at
    most what a scale of zero would lose, however small its weights are: a floor under the scale,
    in contrast, would make the row as large as the floor.

    Returns:
        Float32 numbers that float16 holds.

    Raises:
        StorageRangeError: a value is NaN or infinite.
    """
    if not bool(torch.isfinite(values).all()):
        raise StorageRangeError(f"{what} is not finite")
    # Clipping keeps one huge outlier from turning a whole row into infinities.
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def to_positive_float16(values: Tensor, what: str = "a step") -> Tensor:
    """Round to the nearest positive float16: for steps, which values are divided by.

    A step is never made smaller than the smallest subnormal. Codes are chosen for the stored step,
    so values that are small against it round to zero, and not to something large.

    Raises:
        StorageRangeError: a value is NaN or infinite.
    """
    return to_float16(values, what).clamp_min(SMALLEST_HALF)


def clipped(values: Tensor) -> int:
    """Count the numbers that lie at the end of float16's range, where `to_float16` clips."""
    return int((values.abs() >= LARGEST_HALF).sum())


_INT8_MAX = 127


def store_codebook(codebook: Tensor, dtype: CodebookDtype) -> dict[str, Tensor]:
    """Return the parts that are kept of a codebook ``(entries, d)``.

    ``float16``: one tensor ``entries``. ``int8``: ``entries`` in int8 and ``steps (d,)`` in
    float16, one step per coordinate: coordinates of a stratified order differ in range.

    Raises:
        StorageRangeError: an entry is not finite or does not fit float16.
    """
    if not bool(torch.isfinite(codebook).all()) or float(codebook.abs().max()) > LARGEST_HALF:
        raise StorageRangeError("a codebook entry is not finite or exceeds half precision's 65504")
    if dtype == "float16":
        return {"entries": codebook.half()}
    steps = to_positive_float16(codebook.abs().amax(0) / _INT8_MAX, "a codebook entry")
    # Symmetric, without -128: a codebook and its negative are then stored alike.
    scaled = (codebook / steps).round().clamp(-_INT8_MAX, _INT8_MAX)
    return {"entries": scaled.to(torch.int8), "steps": steps.half()}


def load_codebook(parts: dict[str, Tensor]) -> Tensor:
    """Return the float32 codebook ``(entries, d)`` that stored parts stand for."""
    entries = parts["entries"].float()
    return entries * parts["steps"].float() if "steps" in parts else entries


def round_codebook(codebook: Tensor, dtype: CodebookDtype) -> Tensor:
    """Return the codebook as it comes back from storage."""
    return load_codebook(store_codebook(codebook, dtype))
