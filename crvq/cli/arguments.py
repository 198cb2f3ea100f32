"""The command line as Hydra's parser wants it."""

from __future__ import annotations

import re

from hydra._internal.utils import get_args_parser

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)"
_BITS = re.compile(rf"budget={_NUMBER}(,{_NUMBER})*")
_TRACKING = {"tracking=wandb": "tracking=offline"}


def tidy_arguments(arguments: list[str]) -> list[str]:
    """Put flags before overrides, and write short forms out.

    Hydra's parser takes overrides in one row only, not on both sides of a flag. ``budget=2`` is
    short for ``budget.bits=2``, ``--dry-run`` for
    ``dry_run=true``, ``method.overrides=`` for ``overrides=`` (of whatever method), and
    ``tracking=wandb`` for ``tracking=offline``, which is W&B.
    """
    arguments = ["dry_run=true" if one == "--dry-run" else one for one in arguments]
    overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    flags = [argument for argument in arguments if argument not in overrides]
    return [*flags, *(written_out(override) for override in overrides)]


def written_out(override: str) -> str:
    """Return an override without its short form."""
    if _BITS.fullmatch(override):
        return override.replace("budget=", "budget.bits=", 1)
    if override.startswith("method.overrides="):
        return override.removeprefix("method.")
    return _TRACKING.get(override, override)
