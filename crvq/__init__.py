"""CRVQ: quantize the weights of language models to 1-2 bits, count every bit, check the result.

Importing this package is cheap: what it names is imported when it is first used. It also makes
exported folders known to transformers, in whichever order the two are imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crvq.export.registration import install

if TYPE_CHECKING:
    from crvq.api import QuantizationResult, quantize
    from crvq.export import load

_WHERE = {
    "QuantizationResult": "crvq.api",
    "load": "crvq.export",
    "quantize": "crvq.api",
}

__all__ = ["QuantizationResult", "load", "quantize"]

install()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
