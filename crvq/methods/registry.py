"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crvq.config.strict import StrictModel
from crvq.methods.method import Method
from crvq.registry import Registry
from crvq.vq.revision import SOLVER_REVISION

METHODS: Registry[type[Method]] = Registry("method")

M = TypeVar("M", bound=type[Method])


def register_method(name: str) -> Callable[[M], M]:
    """Return a class decorator that makes a `Method` known under ``name``.

    Its parameters are the configuration's top-level key ``name``: ``crvq.critical_ratio=0.02``.

    Raises:
        ValueError: another class has that name already.
        TypeError: the class is no `Method`.
    """

    def register(method: M) -> M:
        if not issubclass(method, Method):
            raise TypeError(f"method {name!r}: {method.__qualname__} is no subclass of Method")
        METHODS.add(name, method)
        return method

    return register


def method_names() -> list[str]:
    """Return all registered names."""
    return METHODS.names()


def method_params(name: str) -> type[StrictModel]:
    """Return the parameter type of a method.

    Raises:
        ConfigError: no such method; lists the known ones.
    """
    return METHODS.get(name).Params


def fits_budget(name: str) -> bool:
    """Whether a method has a rule for bit budgets (``fit_budget``).

    Raises:
        ConfigError: no such method.
    """
    return METHODS.get(name).fits_budgets


def method_quantizes(name: str) -> bool:
    """Whether a method changes weights at all (full precision does not).

    Raises:
        ConfigError: no such method.
    """
    return METHODS.get(name).quantizes


def algorithm_revisions(name: str) -> dict[str, int]:
    """Return the revisions of everything that a method's results depend on.

    Part of a run's identity: results of different revisions must not be mixed.

    Returns:
        ``{"crvq": 1, "solver": 2}``; "solver" only for methods that use the shared solver.

    Raises:
        ConfigError: no such method.
    """
    method = METHODS.get(name)
    revisions = {name: method.revision}
    if method.uses_solver:
        revisions["solver"] = SOLVER_REVISION
    return revisions


def create_method(name: str, params: StrictModel, seed: int) -> Method:
    """Return a method ready to quantize.

    Raises:
        ConfigError: no such method.
    """
    return METHODS.get(name)(params, seed)
