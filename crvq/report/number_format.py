"""How numbers are written in tables: one place for digits and units."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    "minutes",
    "memory",
]

UNKNOWN = "-"
_KIB = 1024
_DEGENERATE = 1e6
"""Perplexities from here on say nothing but their order of magnitude."""
_MORE_DIGITS = 2
"""A spread may add so many decimals to the mean; one that needs more is not worth showing."""


def format_cell(style: Style, value: object, std: float | None = None) -> str:
    """Return a value as a table shows it; ``mean ± std`` where a spread over seeds is known.

    A spread has two significant digits at most, and the mean as many decimals as its spread:
    ``50.1 ± 1.5``, ``0.02260 ± 0.00005``.

    Args:
        style: what the number is. ``accuracy`` takes a fraction and shows percent points;
            ``percent`` takes a fraction and shows a signed change; ``duration`` takes seconds,
            and ``minutes`` too, which is for columns of one unit;
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
    if not math.isfinite(number):
        return str(number)
    form = _form(style, number)
    return _with_spread(form, number, std) or _alone(style, form, number)


def perplexity(value: float) -> str:
    """Two decimals, none from 1000 on, ``1.8e14`` from a million on; infinity and NaN by name."""
    return format_cell("perplexity", value) if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    """``42 s``, from 100 seconds on ``8.7 min`` and ``20 min``, from 100 minutes on ``1.7 h``."""
    return format_cell("duration", seconds)


def memory(count: float) -> str:
    """Bytes as MiB, from 1 GiB on as GiB."""
    return format_cell("memory", count)


@dataclass(frozen=True)
class _Form:
    """How a number is written: times ``factor``, with ``decimals``, then ``unit``."""

    factor: float
    decimals: int
    unit: str = ""
    sign: str = ""
    more: int = _MORE_DIGITS

    def write(self, value: float, decimals: int) -> str:
        return f"{value * self.factor:{self.sign},.{decimals}f}"


def _form(style: Style, number: float) -> _Form:
    size = abs(number)
    if style == "perplexity" and size >= _DEGENERATE:
        power = int(f"{size:.1e}".split("e")[1])
        return _Form(10.0**-power, 1, f"e{power}")
    if style == "duration":
        return _time_form(size)
    if style == "minutes":
        return _Form(1 / 60, 1, more=0)
    if style == "memory":
        small = size < _KIB**3
        return _Form(_KIB**-2, 1, " MiB", more=0) if small else _Form(_KIB**-3, 2, " GiB", more=0)
    decimals = {
        "integer": 0,
        "bits": 3,
        "perplexity": 2 if size < 1000 else 0,
        "accuracy": 1,
        "percent": 1,
    }
    if style in decimals:
        factor = 100 if style in {"accuracy", "percent"} else 1
        unit, sign = (" %", "+") if style == "percent" else ("", "")
        return _Form(factor, decimals[style], unit, sign)
    return _Form(1, max(0, 2 - _exponent(size)) if size else 0)


def _time_form(seconds: float) -> _Form:
    if seconds < 100:
        return _Form(1, 0, " s", more=0)
    minutes = seconds / 60
    if minutes < 100:
        return _Form(1 / 60, 1 if minutes < 10 else 0, " min", more=0)
    return _Form(1 / 3600, 1 if minutes < 600 else 0, " h", more=0)


def _alone(style: Style, form: _Form, number: float) -> str:
    significant = {"value": 6, "loss": 3}.get(style)
    if significant is not None:
        return f"{number:.{significant}g}"
    return form.write(number, form.decimals) + form.unit


def _with_spread(form: _Form, number: float, std: float | None) -> str | None:
    """Return the number with its spread; None where there is none worth showing."""
    if not std or not math.isfinite(std):
        return None
    exponent = _exponent(std * form.factor)
    one_digit, two_digits = max(0, -exponent), max(0, 1 - exponent)
    decimals = min(two_digits, max(form.decimals, one_digit))
    if decimals > form.decimals + form.more:
        return None
    mean, spread = (form.write(value, decimals) for value in (number, std))
    both = f"{mean}{form.unit} ± " if form.unit.startswith("e") else f"{mean} ± "
    return f"{both}{spread.lstrip('+')}{form.unit}"


def _exponent(size: float) -> int:
    """Return the power of ten of a positive number's first digit, after rounding to two digits."""
    return int(f"{size:.1e}".split("e")[1])
