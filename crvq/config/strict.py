"""The base of all configuration objects: strict values, and which fields change a run's result.

Every field changes the result of a run unless its declaration says otherwise::

    seed: int = 0                                       # changes the result
    experiment: Annotated[str, Neutral] = "default"     # never changes it
    warm_start: Annotated[bool, NeutralAt(False)] = False   # at False, as if it did not exist

`StrictModel.identity` derives from these declarations what identifies a run, so a new field takes
part in the identity until somebody decides that it should not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class _Neutral:
    """The type of `Neutral`."""

    def __repr__(self) -> str:
        return "Neutral"


Neutral: Final = _Neutral()
"""A field that never changes the result: labels, places, watching, retries, memory-only knobs."""


@dataclass(frozen=True)
class NeutralAt:
    """A field that leaves the result alone at one value, and changes it at all others.

    For fields added later: existing runs behave as the new field does at ``value``, and keep their
    names.
    """

    value: object


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """Return what changes the result of a run, as JSON can hold it.

        Fields marked `Neutral`, and fields at the value of their `NeutralAt`, are left out; so is
        a section of which nothing remains. Equal identities give equal results.
        """
        values = self.model_dump(mode="json")
        kept = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if is_neutral(field) or any(value == mark.value for mark in _marks(field)):
                continue
            part = _identity(value, values[name])
            if part == {} and isinstance(value, StrictModel):
                continue
            kept[name] = part
        return kept


def is_neutral(field: FieldInfo) -> bool:
    """Return whether a field is declared never to change a result."""
    return Neutral in field.metadata


def neutral_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the dotted names of all `Neutral` fields of a model and of its sections."""
    return frozenset(_neutral(model, ""))


def sections(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the models that a field's value can be or contain: ``BlockConfig | None`` has one."""
    return list(_models(field.annotation))


def _marks(field: FieldInfo) -> list[NeutralAt]:
    return [mark for mark in field.metadata if isinstance(mark, NeutralAt)]


def _identity(value: object, dumped: Any) -> Any:  # noqa: ANN401
    """Return the identity of any value; ``dumped`` is the same value as JSON."""
    if isinstance(value, StrictModel):
        return value.identity()
    if isinstance(value, dict):
        return {key: _identity(value[key], part) for key, part in dumped.items()}
    if isinstance(value, list | tuple):
        return [_identity(one, part) for one, part in zip(value, dumped, strict=True)]
    return dumped


def _neutral(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if is_neutral(field):
            yield prefix + name
            continue
        for section in sections(field):
            yield from _neutral(section, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from _models(part)
