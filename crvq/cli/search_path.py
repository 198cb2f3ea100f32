"""Where Hydra finds the configuration: in a checkout, and in an installed package."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from crvq.config.presets import conf_folder

_GROUP = "experiments"


def register_plugins() -> None:
    """Make ``+experiments=NAME`` known to Hydra, from any folder; does nothing a second time."""
    Plugins.instance().register(ExperimentsSource)
    Plugins.instance().register(CrvqSearchPath)


class ExperimentsSource(FileConfigSource):
    """The config group ``experiments``: one folder of sweeps, and nothing that lies next to it."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source in Hydra's search path."""
        return _GROUP

    def load_config(self, config_path: str) -> ConfigResult:
        """Load ``experiments/NAME``."""
        inside = _inside(config_path)
        if not inside:
            raise ConfigLoadError(f"Config not found : {config_path}")
        return super().load_config(inside)

    def available(self) -> bool:
        """Return whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is the group or a folder in it."""
        inside = _inside(config_path)
        return config_path == "" if inside is None else super().is_group(inside)

    def is_config(self, config_path: str) -> bool:
        """Return whether a path is a sweep of the folder."""
        inside = _inside(config_path)
        return bool(inside) and super().is_config(str(inside))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of sweeps, or the group's own name."""
        if config_path.strip("/") == "":
            return [] if results_filter == ObjectType.CONFIG else [_GROUP]
        found: list[str] = []
        for file in sorted((Path(self.path) / (_inside(config_path) or "")).iterdir()):
            self._list_add_result(
                files=found,
                file_path=f"{config_path}/{file.name}",
                file_name=file.name,
                results_filter=results_filter,
            )
        return sorted(set(found))


class CrvqSearchPath(SearchPathPlugin):
    """Adds the experiments of the working folder, then those that are shipped."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that exist, each once."""
        folders = (Path.cwd() / _GROUP, conf_folder().parent / _GROUP)
        for folder in dict.fromkeys(one.resolve() for one in folders if one.is_dir()):
            search_path.append(provider="crvq", path=f"{_GROUP}://{folder}")


def _inside(config_path: str) -> str | None:
    """Return the path inside the group; None where it is not of the group."""
    first, _, rest = config_path.strip("/").partition("/")
    return rest if first in (_GROUP, f"{_GROUP}.yaml") else None
