"""Quantization methods; importing this package registers all of its own."""

from __future__ import annotations

# Imported for what they register: a new method is one file and its name here. One from outside of
# this package registers itself when its module is imported.
from crvq.methods import aqlm, billm, crvq, full_precision, gptq, gptvq, pb_llm, rtn  # noqa: F401
from crvq.methods.method import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.methods.registry import create_method, method_names, method_params, register_method

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
