"""Attributes that are computed once for each object, also when threads ask at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class computed_once(Generic[Value]):  # noqa: N801 - used as a decorator, as `property` is
    """A property that is computed at its first use and kept in the object's ``__dict__``.

    Each object has its own lock. `functools.cached_property` has one lock for all objects of
    a class up to Python 3.11, so that threads that work on different layers wait for one another,
    and none from 3.12 on, so that threads that share an object compute the same thing twice.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> computed_once[Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> computed_once[Value] | Value:
        if instance is None:
            return self
        # No __set__: once the value is in __dict__, Python finds it there and never comes here.
        kept = instance.__dict__
        # setdefault is one step for other threads: all of them get the same lock. It is reentrant
        # because one computed attribute may need another one.
        with kept.setdefault("_computed_once_lock", RLock()):
            if self._name not in kept:
                kept[self._name] = self._compute(instance)
            value: Value = kept[self._name]
            return value
