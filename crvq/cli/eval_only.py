"""Checks of a command that only measures more on a finished run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.pipeline.add_evaluation import CHECKPOINT, is_measurable, missing_here
from crvq.pipeline.run_folder import finished_folder

_COUNT = (
    "eval",
    "eval_only",
    "device",
    "activation_dtype",
    "threads",
    "cache_dir",
    "tracking",
    "force",
    "compare_with",
    "hydra",
)
"""Keys of what is measured, where, and how it is watched; all others are the finished run's."""


def check_eval_only(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse ``eval_only`` of a run that cannot be measured, and keys that would do nothing.

    Args:
        config: the job's.
        overrides: those of the command line.

    Raises:
        ConfigError: names the key or the folder, and what to do.
        RecordError: the record cannot be read.
    """
    if config.eval_only is None:
        return
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if re.split(r"[./@]", key)[0] not in _COUNT:
            raise ConfigError(
                f"{override} does nothing with eval_only, which takes the model and method of "
                f"the finished run; leave it out. What counts here: {', '.join(_COUNT[:-2])}"
            )
    folder = finished_folder(config.eval_only)
    missing_here(folder, config)
    if not is_measurable(folder):
        raise ConfigError(
            f"eval_only={config.eval_only}: {folder / CHECKPOINT} holds no packed blocks (records "
            "are often kept without them); run the command that made the run with force=true"
        )
