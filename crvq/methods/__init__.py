"""Quantization methods: one file a method; importing this package registers them all."""

from __future__ import annotations

import importlib
import pkgutil

from crvq.methods.method import FollowsBlocks, LinearInput, LinearShape, Method, QuantizedLinear
from crvq.methods.registry import create_method, method_names, method_params, register_method

# A new method is one new file: it is found here and registers itself.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "FollowsBlocks",
    "LinearInput",
    "LinearShape",
    "Method",
    "QuantizedLinear",
    "create_method",
    "method_names",
    "method_params",
    "register_method",
]
