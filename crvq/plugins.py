"""Methods, weight formats, text sources and trackers of other packages.

A module that registers them is imported when it is named in the variable ``CRVQ_PLUGINS`` (several
with commas between them), or when an installed package has it as an entry point of the group
``crvq.plugins``. Nothing that a configuration or a folder of weights says is ever imported.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import entry_points

from crvq.errors import ConfigError

VARIABLE = "CRVQ_PLUGINS"
GROUP = "crvq.plugins"

_loaded: set[str] = set()


def load_plugins() -> None:
    """Import the modules of all plugins, each once.

    Raises:
        ConfigError: one cannot be imported; says which, and where it is named.
    """
    named = {name.strip(): VARIABLE for name in os.environ.get(VARIABLE, "").split(",")}
    installed = {
        entry.value: f"the entry points of {entry.dist.name if entry.dist else 'a package'}"
        for entry in entry_points(group=GROUP)
    }
    for name, where in {**installed, **named}.items():
        if not name or name in _loaded:
            continue
        # Before the import: what a plugin imports may ask for plugins in turn.
        _loaded.add(name)
        try:
            importlib.import_module(name)
        except Exception as error:
            _loaded.discard(name)
            raise ConfigError(
                f"the plugin {name!r}, named in {where}, cannot be imported: "
                f"{type(error).__name__}: {error}. It must be a module on PYTHONPATH; unset "
                f"{VARIABLE} or uninstall the package to go on without it"
            ) from error
