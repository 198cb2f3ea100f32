"""The command that reproduces a run: its record's configuration as overrides of the default one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode

from crvq.cli.plan import composing
from crvq.cli.search_path import conf_folder
from crvq.cli.typed_config import typed_config
from crvq.errors import ConfigError, CrvqError
from crvq.report.run_labels import decides

_GROUPS = ("model", "calibration", "finetune", "eval", "rotation")
"""Sections that a file of ``conf/`` may set whole; the method's is chosen by its preset."""
_FEW = 3
_OPEN = ("eval.perplexity", "overrides")
"""Sections whose keys a user names."""
_PLAIN = re.compile(r"[A-Za-z_./-][A-Za-z0-9_./:+-]*")
_WORDS = frozenset({"null", "true", "false", "nan", "inf"})
_PARAMS = "method_params"
_GONE = object()


def command_of(record: Mapping[str, Any]) -> str | None:
    """Return ``python run.py method=...`` for a record; None where that cannot be said.

    Keys that change no result (threads, folders, tracking) are left out, except ``experiment``.

    Args:
        record: of any version; keys that it does not have keep their default.
    """
    config = record.get("config")
    if not config or not isinstance(config.get("method"), str):
        return None
    try:
        overrides = _overrides(config)
    except CrvqError:  # a method of a plug-in that is not installed, a file of conf/ that is gone
        return None
    return shlex.join(["python", "run.py", *overrides])


def _overrides(config: Mapping[str, Any]) -> list[str]:
    wanted, base = dict(config), _composed(())
    chosen: tuple[str, ...] = ()
    method = str(wanted["method"])
    presets = [
        name for name in _options("method") if name == method or name.startswith(f"{method}_")
    ]
    sections = ("method", _PARAMS)
    if _distance(base, wanted, sections) or not presets:
        options = [f"method={name}" for name in presets or [method]]
        chosen += (_closest(options, wanted, sections),)
    for group in _GROUPS:
        # A few keys are typed; a file is looked for where a section differs as a whole.
        left = _distance(base, wanted, (group,)) if group in wanted else 0
        if left > _FEW:
            best = _closest([f"{group}={name}" for name in _options(group)], wanted, (group,))
            chosen += (best,) if 2 * _distance(_composed((best,)), wanted, (group,)) < left else ()
    rest = _changes(_composed(chosen), wanted)
    return [*chosen, *(key if value is _GONE else f"{key}={_value(value)}" for key, value in rest)]


def _closest(options: list[str], wanted: Mapping[str, Any], sections: tuple[str, ...]) -> str:
    """Return the option that leaves the fewest keys to set: what a user would have typed."""

    def left(option: str) -> tuple[int, int]:
        try:
            return _distance(_composed((option,)), wanted, sections), len(option)
        except CrvqError:  # an option that needs more keys
            return 10**6, 0

    return min(options, key=left)


def _distance(base: Mapping[str, Any], wanted: Mapping[str, Any], sections: tuple[str, ...]) -> int:
    changes = _changes(_part(base, sections), _part(wanted, sections))
    return sum(_size(value) for _, value in changes)


def _part(config: Mapping[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    return {key: config[key] for key in sections if key in config}


def _changes(
    base: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "", method: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield key and value of everything that ``wanted`` has differently; `_GONE` to remove a key.

    Keys in the form in which they are typed: ``+`` before what is new, ``~`` before what goes.
    """
    method = method or str(wanted.get("method", ""))
    for key, value in wanted.items():
        typed = f"{path}.{key}" if path else (method if key == _PARAMS else str(key))
        place = f"{path}.{key}" if path else str(key)
        if not _counts(place):
            continue
        if key not in base:
            if path in _OPEN:
                yield f"+{typed}", value
        elif isinstance(value, Mapping) and isinstance(base[key], Mapping):
            yield from _changes(base[key], value, typed, method)
        elif value != base[key]:
            yield typed, value
    for key in base:
        if key in wanted or not path:
            continue
        if path in _OPEN:
            yield f"~{path}.{key}", _GONE
        elif isinstance(base[key], Mapping) and _counts(f"{path}.{key}"):
            yield f"{path}.{key}", None  # a part that records did not have yet


def _counts(place: str) -> bool:
    """Return whether a key belongs to the command: evaluation does, though no model needs it."""
    return place == "experiment" or place.split(".")[0] == "eval" or decides(place)


def _size(value: object) -> int:
    """Return how many values a change holds."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the typed configuration of a command, as a record would hold it.

    Raises:
        ConfigError: a key or value is wrong, or one is missing.
    """
    try:
        with composing(conf_folder(), None) as hydra:
            config = hydra.compose_config(
                "config", list(overrides), RunMode.RUN, with_log_configuration=False
            )
    except HydraException as error:
        raise ConfigError(str(error)) from error
    return typed_config(config).model_dump(mode="json")


@cache
def _options(group: str) -> tuple[str, ...]:
    files = sorted((conf_folder() / group).glob("*.yaml"))
    return tuple(file.stem for file in files if not file.stem.startswith("_"))


def _value(value: object) -> str:
    """Return a value in Hydra's grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        return _quoted(value)
    return repr(value)


def _quoted(text: str) -> str:
    """Return a quoted string of Hydra's grammar, whose lines break as they are."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
