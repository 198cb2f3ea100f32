"""Compose and check every job of a command before the first one starts."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from crvq.cli.eval_only import check_eval_only
from crvq.cli.typed_config import comparison, typed_config, with_params
from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.pipeline.device import resolve_device
from crvq.sources.cache import cache_folder
from crvq.tracking.mirror import check_tracking

# Sweeps beyond this are checked at their first jobs only.
_MAX_JOBS = 256
# Commands that print something and run no job.
_IDLE_FLAGS = ("help", "hydra_help", "cfg", "info", "shell_completion")


def check_command(arguments: list[str], conf: Path, config_name: str) -> None:
    """Check the configuration of every job that a command line asks for.

    Does nothing for commands that run no job (``--help``, ``--cfg``), and for sweepers that
    choose their jobs themselves.

    Args:
        arguments: the command line without the program's name.
        conf: folder of the configuration.
        config_name: the primary configuration.

    Raises:
        ConfigError: names the key, the value seen, what is allowed and how to mend it.
    """
    parsed = get_args_parser().parse_args(arguments)
    if any(getattr(parsed, flag, None) for flag in _IDLE_FLAGS):
        return
    overrides = list(parsed.overrides)
    if any(override.startswith("hydra/sweeper=") for override in overrides):
        return
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            for job in _planned(config_name, overrides, parsed)[:_MAX_JOBS]:
                typed = _check_job(_compose(config_name, job, parsed.config_dir))
                check_eval_only(typed, job)
    finally:
        GlobalHydra.instance().clear()


def _planned(name: str, overrides: list[str], parsed: Namespace) -> list[list[str]]:
    """The overrides of each job: one, or those of a sweep on the command line or in a config."""
    first = next(iter(_jobs(overrides))) if parsed.multirun else overrides
    hydra = _compose(name, first, parsed.config_dir, with_hydra=True).hydra
    if not parsed.multirun and hydra.mode != RunMode.MULTIRUN:
        return [overrides]
    swept = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    return list(_jobs([*swept, *overrides]))


def _check_job(config: DictConfig) -> RunConfig:
    typed = typed_config(config)
    changes = comparison(config)
    if changes:
        with_params(typed, changes)
    resolve_device(typed.device)
    check_tracking(typed.tracking)
    if typed.eval.zero_shot is not None:
        # lm-eval takes seconds to import, and most commands do without it.
        from crvq.evaluation.zero_shot_loading import load_tasks

        load_tasks(typed.eval.zero_shot, cache_folder(typed.cache_dir))
    return typed


def _jobs(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each job of a basic sweep."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_first_lines(error)) from error
    for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
        for job in batch:
            yield list(job)


def _compose(
    name: str, overrides: list[str], config_dir: str | None, with_hydra: bool = False
) -> DictConfig:
    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    try:
        return compose(name, overrides=[*overrides, *extra], return_hydra_config=with_hydra)
    except HydraException as error:
        raise ConfigError(_explain(name, overrides, error)) from error


def _explain(name: str, overrides: list[str], error: HydraException) -> str:
    """Say which key or option a refused override should perhaps have been."""
    text = _first_lines(error)
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option is not None and "Available options" in text:
        group, chosen = option.groups()
        listed = text.split("Available options")[1].split(":", 1)[1].split()
        known = [one for one in listed if not one.startswith("_")]
        close = get_close_matches(chosen, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{group}={chosen}: there is no such option{hint} Known here: {', '.join(known)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key is None:
        return text
    wanted = key.group(1)
    kept = [o for o in overrides if o.lstrip("+~").split("=")[0] != wanted]
    try:
        known = _flat(compose(name, overrides=kept))
        method = str(compose(name, overrides=kept).get("method"))
    except HydraException:
        return text
    given = next((o for o in overrides if o.split("=")[0] == wanted), wanted)
    if wanted in known:
        return (
            f"{given}: a key inside this value is not one of {wanted}; a key of its own is added "
            f"with +{wanted}.KEY=VALUE"
        )
    close = get_close_matches(wanted, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "`python run.py --cfg job` lists all keys"
    return (
        f"{given}: there is no key {wanted!r} in this configuration (method={method}; a method's "
        f"parameters are only there when it is chosen); {hint}"
    )


def _flat(config: DictConfig) -> list[str]:
    """All dotted keys."""
    values = OmegaConf.to_container(config, resolve=False)

    def walk(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield f"{prefix}{key}"
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(values, ""))


def _first_lines(error: Exception) -> str:
    """What Hydra said, without its configuration search path."""
    return str(error).split("\nConfig search path")[0].strip()
