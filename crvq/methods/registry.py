"""Methods by name, imported when they are first needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from crvq.config.strict import StrictModel
from crvq.methods.catalog import CATALOG
from crvq.registry import Registry
from crvq.vq.revision import SOLVER_REVISION

if TYPE_CHECKING:
    from crvq.methods.method import Method

METHODS: Registry[type[Method]] = Registry("method")

M = TypeVar("M", bound=type)


def register_method(name: str) -> Callable[[M], M]:
    """Return a class decorator that makes a `Method` known under ``name``.

    Its parameters are the configuration's top-level key ``name``: ``crvq.critical_ratio=0.02``.

    Raises:
        ValueError: another class has that name already, or the class is not as the catalog says.
        TypeError: the class is no `Method`.
    """

    def register(method: M) -> M:
        from crvq.methods.method import Method  # torch: not needed to read a command

        if not issubclass(method, Method):
            raise TypeError(f"method {name!r}: {method.__qualname__} is no subclass of Method")
        entry = CATALOG.get(name)
        if entry is not None and method.__module__ != entry.module:
            raise ValueError(f"method {name!r} is already that of {entry.module}")
        if entry is not None:
            listed = (entry.params, entry.quantizes, entry.fits_budget)
            declared: Any = method
            if listed != (declared.Params, declared.quantizes, declared.fits_budgets):
                raise ValueError(f"method {name!r} differs from its entry in the catalog, {entry}")
        METHODS.add(name, method)
        return method

    return register


def method_names() -> list[str]:
    """Return all names: of the catalog, and those registered from outside the package."""
    return sorted({*CATALOG, *METHODS.names()})


def outside_methods() -> dict[str, type[Method]]:
    """Return the methods registered from outside the package, by name."""
    return {name: METHODS.get(name) for name in METHODS.names() if name not in CATALOG}


def method_params(name: str) -> type[StrictModel]:
    """Return the parameter type of a method.

    Raises:
        ConfigError: no such method; lists the known ones.
    """
    entry = CATALOG.get(name)
    return entry.params if entry is not None else _find(name).Params


def fits_budget(name: str) -> bool:
    """Return whether a method has a rule for bit budgets (``fit_budget``).

    Raises:
        ConfigError: no such method.
    """
    entry = CATALOG.get(name)
    return entry.fits_budget if entry is not None else _find(name).fits_budgets


def method_quantizes(name: str) -> bool:
    """Return whether a method changes weights at all (full precision does not).

    Raises:
        ConfigError: no such method.
    """
    entry = CATALOG.get(name)
    return entry.quantizes if entry is not None else _find(name).quantizes


def algorithm_revisions(name: str) -> dict[str, int]:
    """Return the revisions of everything that a method's results depend on.

    Part of a run's identity: results of different revisions must not be mixed.

    Returns:
        ``{"crvq": 1, "solver": 2}``; "solver" only for methods that use the shared solver.

    Raises:
        ConfigError: no such method.
    """
    method = _find(name)
    revisions = {name: method.revision}
    if method.uses_solver:
        revisions["solver"] = SOLVER_REVISION
    return revisions


def create_method(name: str, params: StrictModel, seed: int) -> Method:
    """Return a method ready to quantize.

    Raises:
        ConfigError: no such method.
    """
    return _find(name)(params, seed)


def _find(name: str) -> type[Method]:
    if name in CATALOG and name not in METHODS.names():
        importlib.import_module(CATALOG[name].module)
    return METHODS.get(name, known=method_names())
