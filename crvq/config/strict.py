"""The base of all configuration objects: strict values, and which fields change a run's result.

Every field changes the result of a run unless its declaration says otherwise::

    seed: int = 0                                       # changes the result
    experiment: Annotated[str, Neutral] = "default"     # never changes it
    warm_start: Annotated[bool, NeutralAt(False)] = False   # at False, as if it did not exist

`StrictModel.identity` derives from these declarations what identifies a run, so a new field takes
part in the identity until it is declared neutral.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

LARGEST_NUMBER = 2**32 - 1
"""No count, size or seed is larger; the seeds of numpy and torch are not either."""
LONGEST_NAME = 255
"""Bytes in the name of a file or folder."""


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

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        """Refuse what pydantic would convert in a surprising way."""
        name = info.field_name
        field = cls.model_fields.get(name) if name is not None else None
        if field is not None:
            _check_plain(value, accepts_bool=bool in _leaf_types(field.annotation))
        return value

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


def usable_path(path: str | None) -> str | None:
    """Return a path that a user gave.

    Raises:
        ValueError: no file system has a file of that name.
    """
    if path is not None and (not path.strip() or "\0" in path or not path.isprintable()):
        raise ValueError(f"{path!r} is not the path of a file or folder")
    if path is not None and any(len(part.encode()) > LONGEST_NAME for part in path.split("/")):
        raise ValueError(f"a name in this path has more than {LONGEST_NAME} bytes")
    return path


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


def _check_plain(value: object, accepts_bool: bool) -> None:
    """Refuse true and false where a number or a text is expected, and numbers beyond all use."""
    if isinstance(value, list | tuple):
        for one in value:
            _check_plain(one, accepts_bool)
    elif isinstance(value, bool):
        if not accepts_bool:
            raise ValueError(f"{str(value).lower()} is neither a number nor a text here")
    elif isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"numbers go up to {LARGEST_NUMBER}")


def _leaf_types(annotation: Any) -> set[type]:  # noqa: ANN401
    """Return the types that an annotation names: ``tuple[float, ...] | None`` has float."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return {annotation}
    return {kind for part in get_args(annotation) for kind in _leaf_types(part)}
