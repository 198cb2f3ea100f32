"""``--help``: groups of options and the commonest overrides, without names that are internal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType
from hydra.types import RunMode

from crvq.cli.plan import composing

_WIDTH = 80


def help_text(conf: Path, config_name: str, config_dir: str | None = None) -> str:
    """Return the help of the command: header, groups and footer of ``conf/hydra/help``.

    Args:
        conf: folder of the configuration.
        config_name: the primary configuration.
        config_dir: another folder of groups, as given with ``--config-dir``.
    """
    with composing(conf, config_dir) as hydra:
        shown = hydra.compose_config(config_name, [], RunMode.RUN).hydra.help
        groups = "\n".join(_group_lines(hydra))
    return f"{shown.header}\nGroups (choose with GROUP=NAME):\n\n{groups}\n\n{shown.footer}"


def _group_lines(hydra: Hydra) -> Iterator[str]:
    """Yield each group with its options; one that begins with ``_`` is a part of others."""
    for group in sorted(hydra.list_all_config_groups()):
        if group == "hydra" or group.startswith("hydra/"):
            continue
        options = hydra.config_loader.get_group_options(group, results_filter=ObjectType.CONFIG)
        names = [name for name in options if not name.startswith("_")]
        if names:
            yield textwrap.fill(
                f"{group}: {', '.join(names)}",
                _WIDTH,
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
