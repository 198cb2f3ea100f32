"""Say what is wrong with an override that Hydra refused, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from crvq.cli.launchers import EXTRAS
from crvq.errors import ConfigError
from crvq.methods.catalog import CATALOG

LONGEST_SHOWN = 80
"""Characters of a refused value that a message shows."""
LONGEST_MESSAGE = 600
_OPTION = re.compile(r"[\w.-]{1,100}(/[\w.-]{1,100}){0,3}")
_GROUPS = ("model", "budget", "method", "rotation", "calibration", "finetune", "eval", "tracking")

Compose = Callable[[list[str]], DictConfig]


def explain_composition(
    error: Exception, overrides: Sequence[str], compose: Compose | None = None
) -> str:
    """Return one message for an error of Hydra's composition.

    Args:
        error: Hydra's.
        overrides: those of the job.
        compose: composes the same job with other overrides, to see which keys there are.
    """
    text = _first_lines(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{shown(error.override)}: Hydra cannot read this; an override is KEY=VALUE, with the "
            "value in quotes where it holds spaces, commas, brackets, = or a percent sign: "
            "\"'KEY=\\'VALUE\\''\""
        )
    if "does not support sweep type" in text:
        swept = next((o for o in overrides if "interval(" in o), "interval(...)")
        return (
            f"{swept}: an interval needs a sweeper that draws points from it (such as Hydra's "
            "Optuna or Ax plugins); here name the values, as in KEY=0,0.5,1"
        )
    present = re.search(r"An item is already at '([^']+)'", text)
    if present is not None:
        key = present.group(1)
        given = next((o for o in overrides if _key(o) == key), key)
        return f"{shown(given)}: {key} is there already; write {key}=... without the +"
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option is not None and "Available options" in text:
        return _unknown_option(option.group(1), option.group(2), text)
    ambiguous = re.search(r"Ambiguous value for argument '(.+?)'\n", text, re.S)
    if ambiguous is not None:
        key, _, value = ambiguous.group(1).partition("=")
        return (
            f"{key}={value} is a sweep, which needs -m: python run.py -m {key}={value}; "
            f"a list is written '{key}=[{value}]'"
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is None or compose is None:
        return " ".join(text.split())[:LONGEST_MESSAGE]
    wanted = unknown.group(1)
    given = next((o for o in overrides if _key(o) == wanted), wanted)
    try:
        config = compose([o for o in overrides if _key(o) != wanted])
    except (HydraException, OmegaConfBaseException, ValueError):
        return " ".join(text.split())[:LONGEST_MESSAGE]
    return f"{shown(given)}: {_unknown_key(wanted, config)}"


def shown(value: object) -> str:
    """Return a value as it is typed, in one short line."""
    names: dict[object, str] = {None: "null", True: "true", False: "false"}
    plain = value is None or isinstance(value, bool)
    text = names[value] if plain else " ".join(str(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def check_option(override: Override) -> None:
    """Refuse a value that cannot name an option of a group, such as ``eval=null``.

    Hydra itself ends in an exception of Python's for some of them.

    Raises:
        ConfigError: says what a group takes.
    """
    key = override.key_or_group
    if key not in _GROUPS or override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    names = value if isinstance(value, list) and value else [value]
    if all(isinstance(name, str) and _OPTION.fullmatch(name) for name in names):
        return
    raise ConfigError(_no_option(key, str(override.input_line)))


def _no_option(key: str, given: str) -> str:
    also = f"; {key}=none does nothing" if key in ("eval", "finetune") else ""
    return (
        f"{shown(given)}: {key} is a group of options; name one, as in {key}=NAME "
        f"(`python run.py --help` lists them){also}"
    )


def _unknown_option(group: str, chosen: str, text: str) -> str:
    listed = text.split("Available options")[1].split(":", 1)[1].split()
    known = [one for one in listed if not one.startswith("_")]
    close = get_close_matches(chosen, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    if group == "hydra/launcher" and chosen in EXTRAS:
        return (
            f"hydra/launcher={chosen.removeprefix('submitit_')}: its package is not installed; run "
            f"`pip install 'crvq[{EXTRAS[chosen]}]'` (in a checkout `pip install -c "
            f"constraints.txt -e '.[{EXTRAS[chosen]}]'`)"
        )
    return f"{group}={chosen}: there is no such option{hint} Known here: {', '.join(known)}"


def _unknown_key(wanted: str, config: DictConfig) -> str:
    """Say at which part of a dotted key the configuration ends, and what it has there."""
    known = list(_flat(config))
    if wanted in known:
        return (
            f"a key inside this value is not one of {wanted}; another key is added with "
            f"+{wanted}.KEY=VALUE"
        )
    parts = wanted.split(".")
    depth = next(i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in known)
    parent, missing = ".".join(parts[:depth]), parts[depth]
    if depth == 0 and missing in CATALOG and len(parts) > 1:
        return (
            f"there is no key {wanted!r} in this configuration (method={config.get('method')}; a "
            f"method's parameters are only there when it is chosen): add method={missing}"
        )
    if parent == "eval.perplexity":
        there = ", ".join(OmegaConf.select(config, parent) or {}) or "none"
        return (
            f"this evaluation does not read the text {missing!r}; it reads: {there}. Choose an "
            "eval that reads it (eval=quick and eval=full read wikipedia), or add it with "
            f"+eval/dataset@eval.perplexity.{missing}={missing}"
        )
    close = get_close_matches(wanted, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "`python run.py --cfg job` lists all keys"
    where = f" in {parent}" if parent else ""
    value = OmegaConf.select(config, parent) if parent else None
    if parent and value is None:
        return f"{parent} is null here and has no key {missing!r}; {hint}"
    return f"there is no key {missing!r}{where} in this configuration; {hint}"


def _flat(config: DictConfig) -> Iterator[str]:
    """Yield all dotted keys."""
    values = OmegaConf.to_container(config, resolve=False)

    def below(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield f"{prefix}{key}"
                yield from below(value, f"{prefix}{key}.")

    assert isinstance(values, dict)
    yield from below({key: value for key, value in values.items() if key != "hydra"}, "")


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _first_lines(error: Exception) -> str:
    """Return what Hydra said, without its configuration search path."""
    cause = error.__cause__
    text = str(error) or (str(cause) if cause is not None else type(error).__name__)
    return text.split("\nConfig search path")[0].strip()
