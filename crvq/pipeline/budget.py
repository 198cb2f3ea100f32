"""Bit budgets: the method's parameters, once the shapes of the model are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.methods import LinearShape, Method, create_method
from crvq.methods.budget import BudgetError


def within_budget(config: RunConfig, method: Method, shapes: Sequence[LinearShape]) -> Method:
    """Return the method with the parameters that its rule finds for the budget; itself without one.

    With ``budget.if_infeasible=nearest`` a budget infeasible becomes the nearest in reach.

    Raises:
        ConfigError: the method has no rule, or the budget is out of its reach (`BudgetError`).
    """
    if config.budget.bits is None:
        return method
    if not method.fits_budgets:
        raise ConfigError(
            f"budget.bits={config.budget.bits:g}: method {config.method} has no rule for a budget; "
            "set budget=layout"
        )
    try:
        fitted = method.fit_budget(config.budget.bits, shapes)
    except BudgetError as error:
        if config.budget.if_infeasible == "error":
            raise
        fitted = method.fit_budget(error.nearest, shapes)
    return create_method(config.method, fitted, config.seed)


def fitted_params(config: RunConfig, method: Method) -> dict[str, Any]:
    """Return the parameters that a budget changed, for the record's ``effective``."""
    used = getattr(method, "params", None)
    if config.budget.bits is None or used is None:
        return {}
    asked = config.method_params.model_dump()
    return {name: value for name, value in used.model_dump().items() if value != asked[name]}
