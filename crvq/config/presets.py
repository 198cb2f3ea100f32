"""Presets of ``conf/`` read without Hydra, for the Python API."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import crvq
from crvq.config.finetune import FinetuneConfig
from crvq.config.strict import StrictModel
from crvq.errors import ConfigError
from crvq.methods.registry import method_params, outside_methods
from crvq.plugins import load_plugins


@cache
def conf_folder() -> Path:
    """Return the folder of the configuration: ``conf/`` of the checkout or of the package."""
    package = Path(crvq.__file__).resolve().parent
    # A wheel holds conf/ inside the package; in a checkout it is next to it.
    return next(
        folder
        for folder in (package / "conf", package.parent / "conf")
        if (folder / "config.yaml").is_file()
    )


def method_preset(name: str) -> tuple[str, StrictModel]:
    """Return the method and the parameters of ``conf/method/<name>.yaml``.

    A method from outside the package has its name alone, with the defaults of its parameters.

    Raises:
        ConfigError: there is no such preset; lists them.
    """
    load_plugins()
    if name in outside_methods():
        return name, method_params(name)()
    values, bases = _merged("method", name)
    method = bases[0]
    return method, method_params(method).model_validate(values.get(method) or {})


def finetune_preset(name: str) -> FinetuneConfig:
    """Return ``conf/finetune/<name>.yaml``, typed.

    Raises:
        ConfigError: there is no such preset; lists them.
    """
    values, _ = _merged("finetune", name)
    return FinetuneConfig.model_validate(values)


def _merged(group: str, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return a preset merged over the presets that it starts from, and the typed nodes below.

    The defaults of typed nodes (``_crvq``) are those of the classes.
    """
    folder = conf_folder() / group
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("[!_]*.yaml"))
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{group}={name!r}: there is no such preset{hint} Known: {', '.join(known)}"
        )
    own = OmegaConf.load(path)
    assert isinstance(own, DictConfig)
    defaults = own.pop("defaults") if "defaults" in own else []
    merged: Any = OmegaConf.create({})
    bases: list[str] = []
    for entry in defaults:
        if isinstance(entry, DictConfig):
            # ``stage@block: block``: the section exists, with the defaults of its class.
            for place in entry:
                OmegaConf.update(merged, str(place).partition("@")[2], {}, merge=True)
        elif entry == "_self_":
            continue
        elif entry.startswith("_"):
            bases.append(entry.removeprefix("_"))
        else:
            below, found = _merged(group, entry)
            merged, bases = OmegaConf.merge(merged, below), [*bases, *found]
    values = OmegaConf.to_container(OmegaConf.merge(merged, own), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}, bases
