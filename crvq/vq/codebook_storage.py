"""How codebooks are stored: half precision, or 8-bit integers with one scale per coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.choices import CodebookDtype
from crvq.vq.storage_range import LARGEST_HALF, StorageRangeError, to_positive_float16

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
    scaled = (codebook / steps).round().clamp(-_INT8_MAX, _INT8_MAX)
    return {"entries": scaled.to(torch.int8), "steps": steps.half()}


def load_codebook(parts: dict[str, Tensor]) -> Tensor:
    """Return the float32 codebook ``(entries, d)`` that stored parts stand for."""
    entries = parts["entries"].float()
    return entries * parts["steps"].float() if "steps" in parts else entries


def round_codebook(codebook: Tensor, dtype: CodebookDtype) -> Tensor:
    """Return the codebook as it comes back from storage."""
    return load_codebook(store_codebook(codebook, dtype))
