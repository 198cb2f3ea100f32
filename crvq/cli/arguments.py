"""The command line as Hydra's parser wants it."""

from __future__ import annotations

import re

_MULTIRUN_FLAGS = ("-m", "--multirun")
_BUDGET = re.compile(r"^budget=[\d.]+(,[\w.]+)*$")


def tidy_arguments(arguments: list[str]) -> list[str]:
    """Put flags before overrides, and quote budgets.

    Hydra's parser takes overrides in one row only, not on both sides of a flag; and it reads
    ``budget=1`` as a number, where the name of a group's option must be a string.
    """
    ordered = sorted(arguments, key=lambda argument: argument not in _MULTIRUN_FLAGS)
    return [_quoted(argument) if _BUDGET.match(argument) else argument for argument in ordered]


def _quoted(argument: str) -> str:
    """``budget=1,2`` as ``budget='1','2'``."""
    key, _, values = argument.partition("=")
    return f"{key}=" + ",".join(f"'{value}'" for value in values.split(","))
