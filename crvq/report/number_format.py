"""How numbers are written in tables: one place for digits and units."""

from __future__ import annotations

import math
from typing import Literal

Style = Literal[
    "text",
    "value",
    "integer",
    "bits",
    "perplexity",
    "accuracy",
    "percent",
    "loss",
    "duration",
    "memory",
]

UNKNOWN = "-"
_KIB = 1024
_RUIN = 1e6
"""Perplexities from here on say nothing but their order of magnitude."""


def format_cell(style: Style, value: object, std: float | None = None) -> str:
    """A value as a table shows it; ``mean ± std`` where a spread over seeds is known.

    Args:
        style: what the number is. ``accuracy`` takes a fraction and shows percent points;
            ``percent`` takes a fraction and shows a signed change; ``duration`` takes seconds;
            ``memory`` takes bytes; ``value`` is a number of a configuration, as one types it.
        value: None and missing values become ``-``.
        std: in the unit of ``value``; None, NaN and zero show nothing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value) and style == "text"):
        return UNKNOWN
    if style == "text":
        return str(value) or UNKNOWN
    number = float(str(value))
    if math.isnan(number):
        return UNKNOWN
    shown = _number(style, number, number)
    if not std or math.isnan(std) or not math.isfinite(number):
        return shown
    return f"{shown} ± {_number(style, std, number).lstrip('+')}"


def perplexity(value: float) -> str:
    """Two decimals, none from 1000 on, ``1.8e14`` from a million on; infinity and NaN by name."""
    return _perplexity(value, value)


def duration(seconds: float) -> str:
    """``119 s``, from 1000 seconds on ``1:01:05 h``."""
    if seconds < 1000:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h"


def memory(count: float) -> str:
    """Bytes as MiB, from 1 GiB on as GiB."""
    mib = count / _KIB**2
    return f"{mib:.1f} MiB" if mib < _KIB else f"{mib / _KIB:.2f} GiB"


def _number(style: Style, value: float, like: float) -> str:
    """``value`` with as many digits as ``like`` gets."""
    if style == "perplexity":
        return _perplexity(value, like)
    if style == "duration":
        return duration(value)
    if style == "memory":
        return memory(value)
    if not math.isfinite(value):
        return str(value)
    forms = {
        "value": f"{value:.6g}",
        "integer": f"{value:,.0f}",
        "bits": f"{value:.3f}",
        "accuracy": f"{100 * value:.1f}",
        "percent": f"{100 * value:+.1f} %",
        "loss": f"{value:.3g}",
    }
    return forms[style]


def _perplexity(value: float, like: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if like >= _RUIN:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}e{int(power)}"
    return f"{value:.2f}" if like < 1000 else f"{value:,.0f}"
