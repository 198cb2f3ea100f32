"""Check every job of a command before the first one starts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from crvq.cli.launchers import check_launcher, is_remote
from crvq.cli.plan import Plan, plan_command
from crvq.cli.typed_config import comparison, typed_config, with_params
from crvq.config import RunConfig
from crvq.errors import ConfigError

_SINGLE = ("run", "cfg", "multirun", "shell_completion", "info")
"""Flags of which Hydra takes one at a time."""
_IDLE = ("help", "hydra_help", "cfg", "info", "shell_completion", "experimental_rerun")
"""Flags of commands that print something and run no job."""


def check_command(
    arguments: list[str], conf: Path, config_name: str
) -> tuple[Plan, list[RunConfig]] | None:
    """Check the configuration of every job that a command line asks for.

    Jobs are composed by Hydra, with its loader, search path and sweeper. Commands that run no job
    (``--help``, ``--cfg``) are composed only, so that a mistake in them is explained as well.

    Args:
        arguments: the command line without the program's name.
        conf: folder of the configuration.
        config_name: the primary configuration.

    Returns:
        The plan and the typed configuration of its jobs; None for commands that run no job.

    Raises:
        ConfigError: names the key, the value seen, what is allowed and what to type.
    """
    parsed = get_args_parser().parse_args(arguments)
    _check_flags(parsed)
    if parsed.hydra_help or parsed.shell_completion or parsed.experimental_rerun:
        return None
    plan = plan_command(parsed, conf, config_name)
    if any(getattr(parsed, flag) for flag in _IDLE):
        return None
    typed = [_type_job(job.config) for job in plan.jobs]
    # Only once all of that is in order, what takes long to look at.
    check_launcher(plan.launcher)
    for config, job in zip(typed, plan.jobs, strict=True):
        _check_surroundings(config, job.overrides, remote=is_remote(plan.launcher))
    return plan, typed


def _check_flags(parsed: Namespace) -> None:
    given = [flag for flag in _SINGLE if getattr(parsed, flag)]
    if len(given) > 1:
        flags = ", ".join("--" + flag for flag in given)
        raise ConfigError(f"{flags}: only one of these at a time")
    if parsed.resolve and not (parsed.cfg or parsed.help):
        raise ConfigError("--resolve prints nothing by itself; add --cfg job")


def _type_job(config: DictConfig) -> RunConfig:
    typed = typed_config(config)
    changes = comparison(config)
    if changes:
        with_params(typed, changes)
    return typed


def _check_surroundings(
    config: RunConfig, overrides: tuple[str, ...], remote: bool = False
) -> None:
    """Check devices, packages, tasks and folders. Imports only what the job asks for.

    Args:
        config: of the job.
        overrides: of the job.
        remote: the job runs on another machine, whose devices cannot be seen from here.
    """
    if config.device.startswith("cuda") and not remote:
        from crvq.models.precision import resolve_device

        resolve_device(config.device)
    if config.tracking.mode != "disabled":
        from crvq.tracking.mirror import check_tracking

        check_tracking(config.tracking)
    if config.eval.zero_shot is not None:
        from crvq.evaluation.zero_shot_loading import load_tasks
        from crvq.sources.cache import cache_folder

        load_tasks(config.eval.zero_shot, cache_folder(config.cache_dir))
    if config.eval_only is not None:
        from crvq.cli.eval_only import check_eval_only

        check_eval_only(config, overrides)
