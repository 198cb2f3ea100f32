"""Values as JSON can say them, and nested values as flat ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_NAMED = frozenset({"NaN", "Infinity", "-Infinity"})


def to_json(value: object) -> Any:  # noqa: ANN401 - whatever json can say
    """``value`` with only what JSON can say.

    JSON has no NaN or infinity, yet a perplexity can be either and a record must say which:
    they become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which Python's
    ``float``, pydantic and pandas read back. Tensors and arrays of one element become numbers.

    Raises:
        TypeError: a value of another kind, named with its type.
    """
    if value is None or isinstance(value, (bool, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite_or_name(float(value))
    if isinstance(value, BaseModel):
        return to_json(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        return to_json(value.item())  # one-element numpy and torch values
    raise TypeError(f"a {type(value).__name__} cannot be written to a record: {value!r}")


def named_numbers(value: object) -> Any:  # noqa: ANN401 - whatever json can say
    """``value`` with the numbers back that `to_json` had to name: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: named_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [named_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and value in _NAMED else value


def flatten(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``; lists are left whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}{separator}", separator))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _finite_or_name(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
