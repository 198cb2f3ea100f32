"""The quantized weight: its parts, how it decodes, and its size in bits.

Names are imported when they are first used: `crvq.weights.bits` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crvq.weights.additive import AdditiveWeight
    from crvq.weights.bits import BitCount
    from crvq.weights.fields import FormatError
    from crvq.weights.formats import unpack_weight
    from crvq.weights.quantized import QuantizedWeight

_HOMES = {
    "AdditiveWeight": "additive",
    "BitCount": "bits",
    "FormatError": "fields",
    "QuantizedWeight": "quantized",
    "unpack_weight": "formats",
}

__all__ = ["AdditiveWeight", "BitCount", "FormatError", "QuantizedWeight", "unpack_weight"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
