"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from crvq.config.strict import StrictModel
from crvq.errors import ConfigError
from crvq.methods.method import Method
from crvq.vq.revision import SOLVER_REVISION

_METHODS: dict[str, type[Method]] = {}

M = TypeVar("M", bound=type[Method])


def register_method(name: str) -> Callable[[M], M]:
    """Class decorator: make a method known under ``name``.

    The class has ``Params`` (a `StrictModel`) and is called with ``(params, seed)``. Its
    parameters are the configuration's top-level key ``name``: ``crvq.critical_ratio=0.02``.

    Raises:
        ValueError: another class has that name already.
    """

    def register(method: M) -> M:
        known = _METHODS.get(name)
        if known is not None and known.__qualname__ != method.__qualname__:
            raise ValueError(f"method {name!r} is already {known.__qualname__}")
        _METHODS[name] = method
        return method

    return register


def method_names() -> list[str]:
    """All registered names."""
    return sorted(_METHODS)


def method_params(name: str) -> type[StrictModel]:
    """The parameter type of a method.

    Raises:
        ConfigError: no such method; names the known ones.
    """
    return _find(name).Params


def fits_budget(name: str) -> bool:
    """Whether a method has a rule for bit budgets (``fit_budget``).

    Raises:
        ConfigError: no such method.
    """
    return hasattr(_find(name), "fit_budget")


def method_quantizes(name: str) -> bool:
    """Whether a method changes weights at all (full precision does not).

    Raises:
        ConfigError: no such method.
    """
    return _find(name).quantizes


def algorithm_revisions(name: str) -> dict[str, int]:
    """Return the revisions of everything that a method's results depend on.

    Part of a run's identity: results of different revisions must not be mixed.

    Returns:
        ``{"crvq": 1, "solver": 2}``; "solver" only for methods that use the shared solver.

    Raises:
        ConfigError: no such method.
    """
    method = _find(name)
    revisions = {name: getattr(method, "revision", 1)}
    if getattr(method, "uses_solver", False):
        revisions["solver"] = SOLVER_REVISION
    return revisions


def create_method(name: str, params: StrictModel, seed: int) -> Method:
    """A method ready to quantize.

    Raises:
        ConfigError: no such method.
    """
    return _find(name)(params, seed)  # type: ignore[call-arg]


def _find(name: str) -> type[Method]:
    if name not in _METHODS:
        close = get_close_matches(name, _METHODS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"method={name!r} is not known; known: {', '.join(method_names())}.{hint}"
        )
    return _METHODS[name]
