"""The bridge from Hydra's configuration to typed objects."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from crvq.cli.explain import shown
from crvq.config import ModelConfig, RunConfig, TextConfig
from crvq.config.finetune import check_finetune
from crvq.config.strict import StrictModel, sections
from crvq.errors import ConfigError
from crvq.methods.registry import (
    fits_budget,
    method_names,
    method_params,
    method_quantizes,
)

COMPARE_KEY = "compare_with"


def typed_config(config: DictConfig) -> RunConfig:
    """Check every key and value of a composed configuration.

    Raises:
        ConfigError: names each offending key, the value seen, and what is allowed.
    """
    values = _plain(config)
    values.pop(COMPARE_KEY, None)
    method = values.get("method")
    if not isinstance(method, str):
        raise ConfigError(f"method={method!r}: choose one of {', '.join(method_names())}")
    params_type = method_params(method)
    params = values.pop(method, {})
    try:
        values["method_params"] = params_type.model_validate(params)
    except ValidationError as error:
        raise ConfigError(_explain(error, params_type, (method,))) from error
    try:
        typed = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, RunConfig, ())) from error
    _check_sources(typed)
    _check_finetune(typed)
    _check_overrides(typed, params_type)
    if typed.budget.bits is not None and not fits_budget(method):
        able = ", ".join(name for name in method_names() if fits_budget(name))
        raise ConfigError(
            f"budget.bits={typed.budget.bits:g}: method {method} has no rule for a budget; set "
            f"budget=layout and its own parameters, or choose one of {able}"
        )
    if typed.rotation.asked and not method_quantizes(method):
        raise ConfigError(
            f"rotation={typed.rotation.kind}: method {method} quantizes nothing; set rotation=none"
        )
    return typed


def _check_overrides(config: RunConfig, params_type: type[StrictModel]) -> None:
    """Every pattern's parameters must be the method's, and fit to its others."""
    if config.overrides and config.budget.bits is not None:
        raise ConfigError(
            f"budget.bits={config.budget.bits:g} chooses the parameters of all linear layers, and "
            "overrides would change the bits that it comes to; set one of them"
        )
    if config.overrides and not method_quantizes(config.method):
        raise ConfigError(f"overrides: method {config.method} quantizes nothing")
    for pattern, values in (config.overrides or {}).items():
        try:
            params_type.model_validate({**config.method_params.model_dump(), **values})
        except ValidationError as error:
            place = f"overrides.{pattern}"
            raise ConfigError(_explain(error, params_type, (place,))) from error


def _check_sources(config: RunConfig) -> None:
    """What a source needs must be set. (A ``???`` in a group's file cannot say so: merged over a
    ``null``, it leaves the null.)
    """
    texts: dict[str, ModelConfig | TextConfig] = {
        f"eval.perplexity.{name}": text for name, text in config.eval.perplexity.items()
    }
    for section, part in {
        "model": config.model,
        "calibration": config.calibration,
        **texts,
    }.items():
        needed = {"path": "path", "hub": "repo"}.get(part.source)
        if isinstance(part, TextConfig) and part.path is not None:
            continue  # a path wins over the source
        if needed is not None and getattr(part, needed) is None:
            example = {"path": "FILE_OR_FOLDER", "repo": "OWNER/NAME"}[needed]
            raise ConfigError(
                f"{section}.{needed} is not set, but {section}.source={part.source} needs it; "
                f"set {section}.{needed}={example}"
            )


def _check_finetune(config: RunConfig) -> None:
    if config.finetune.asked and not method_quantizes(config.method):
        raise ConfigError(
            f"finetune is set, but method={config.method} quantizes nothing that could be trained; "
            "set finetune=none, or another method"
        )
    check_finetune(config.finetune, config.calibration)


def comparison(config: DictConfig) -> dict[str, Any] | None:
    """Method parameters of the run that is compared with this one; None if there is none."""
    given = config.get(COMPARE_KEY)
    values = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    if values is not None and not isinstance(values, dict):
        raise ConfigError(
            f"{COMPARE_KEY}={values!r}: give method parameters, as in "
            f"'{COMPARE_KEY}={{critical_ratio: 0.0}}', or null"
        )
    return {str(key): value for key, value in values.items()} if values else None


def with_params(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """Return the same run with other method parameters, checked again.

    Raises:
        ConfigError: the method does not take them.
    """
    params_type = method_params(config.method)
    merged = {**config.method_params.model_dump(), **changes}
    try:
        params = params_type.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, params_type, (COMPARE_KEY,))) from error
    return config.model_copy(update={"method_params": params})


def resolve(config: DictConfig) -> None:
    """Replace interpolations such as ``${seed}`` by their values, in place.

    Raises:
        ConfigError: names the key and what its value refers to.
    """
    try:
        OmegaConf.to_container(config, resolve=True)  # its errors name the key
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(_unresolved(error)) from error


def _plain(config: DictConfig) -> dict[str, Any]:
    """Return all values, those of Hydra's own section left out."""
    keys = [str(key) for key in config if key != "hydra"]
    try:
        values = OmegaConf.to_container(
            OmegaConf.masked_copy(config, keys), resolve=True, throw_on_missing=True
        )
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(_unresolved(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _unresolved(error: Exception) -> str:
    key = getattr(error, "full_key", None) or "a value"
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value and this configuration needs one; set {key}=..."
    if isinstance(error, RecursionError):
        return "a value refers to itself, or is nested too deeply"
    return f"{key}: {str(getattr(error, 'msg', error)).splitlines()[0]}"


def _explain(error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...]) -> str:
    """Return one line a fault: ``crvq.critical_ratio=1.5: must be at most 1``."""
    return "\n".join(_fault(dict(fault), model, prefix) for fault in error.errors())


def _fault(fault: dict[str, Any], model: type[BaseModel], prefix: tuple[str, ...]) -> str:
    where = ".".join([*prefix, *(str(part) for part in fault["loc"])])
    kind, message = fault["type"], str(fault["msg"])
    if kind == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        close = get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where} is not a key of this configuration{hint} Known here: {', '.join(known)}"
    if kind == "missing":
        return f"{where} is missing; set {where}=..."
    # A cross-field check has the whole section as its input: the message says it all.
    given = fault["input"]
    seen = "" if isinstance(given, dict) else f"={shown(given)}"
    said = " ".join(message.removeprefix("Value error, ").split())
    said = said.replace("Input should be", "must be")
    allowed = _allowed(model, fault["loc"])
    percent = re.fullmatch(r"\s*(\d+\.?\d*)\s*%\s*", given) if isinstance(given, str) else None
    hint = f"; write {float(percent.group(1)) / 100:g}" if percent else ""
    return f"{where}{seen}: {said}{f'; allowed: {allowed}' if allowed else ''}{hint}"


def _allowed(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    """The limits of a field in words, as in "at least 0, at most 1"; empty if it has none."""
    section = _section_at(model, location[:-1])
    field = getattr(section, "model_fields", {}).get(location[-1] if location else None)
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return ", ".join(
        f"{word} {getattr(limit, name)}"
        for name, word in words.items()
        for limit in getattr(field, "metadata", ())
        if getattr(limit, name, None) is not None
    )


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Fields of the section that ``location`` leads to."""
    return sorted(getattr(_section_at(model, location), "model_fields", {}))


def _section_at(model: type[BaseModel], location: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """Return the type of the section that ``location`` leads to."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        inner = sections(field) if field is not None else []
        current = inner[0] if inner else current
    return current
