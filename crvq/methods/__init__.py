"""Quantization methods: one file per method, listed in `crvq.methods.catalog`.

Names of this package are imported when they are first used: methods need torch, and a command
line is checked without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crvq.methods.registry import create_method, method_names, method_params, register_method

if TYPE_CHECKING:
    from crvq.methods.method import (
        LinearInput,
        LinearShape,
        Method,
        QuantizedLinear,
    )

__all__ = [
    "LinearInput",
    "LinearShape",
    "Method",
    "QuantizedLinear",
    "create_method",
    "method_names",
    "method_params",
    "register_method",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("crvq.methods.method"), name)
