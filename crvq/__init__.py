"""CRVQ: quantize the weights of language models to 1-2 bits, count every bit, check the result.

Importing this package is cheap: what it names is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crvq.api import QuantizationResult, quantize

_WHERE = {"QuantizationResult": "crvq.api", "quantize": "crvq.api"}

__all__ = ["QuantizationResult", "quantize"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
