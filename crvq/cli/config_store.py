"""The defaults of the typed classes as nodes of Hydra's configuration.

Defaults are stated once, in the classes of `crvq.config` and `crvq.methods`. Each class becomes a
node here, so that Hydra knows every key with its default; a file in ``conf/`` begins with such a
node (``defaults: [_base]``) and states only what differs from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING
from pydantic import BaseModel

from crvq.config import (
    AgreementConfig,
    CalibrationConfig,
    EvalConfig,
    GenerationConfig,
    ModelConfig,
    PerplexityConfig,
    RotationConfig,
    RunConfig,
    SpeedConfig,
    TrackingConfig,
    ZeroShotConfig,
)
from crvq.config.finetune import BlockConfig, CodesConfig, EndToEndConfig, FinetuneConfig
from crvq.config.run import BudgetConfig
from crvq.methods.catalog import CATALOG
from crvq.methods.registry import outside_methods

_GROUPS: dict[tuple[str, str], type[BaseModel]] = {
    ("model", "_base"): ModelConfig,
    ("budget", "_base"): BudgetConfig,
    ("rotation", "_base"): RotationConfig,
    ("calibration", "_base"): CalibrationConfig,
    ("finetune", "_base"): FinetuneConfig,
    ("finetune/stage", "block"): BlockConfig,
    ("finetune/stage", "end_to_end"): EndToEndConfig,
    ("finetune/stage", "codes"): CodesConfig,
    ("eval", "_base"): EvalConfig,
    ("eval/dataset", "_base"): PerplexityConfig,
    ("eval/measure", "agreement"): AgreementConfig,
    ("eval/measure", "generation"): GenerationConfig,
    ("eval/measure", "speed"): SpeedConfig,
    ("eval/tasks", "_base"): ZeroShotConfig,
    ("tracking", "_base"): TrackingConfig,
}
_CHOSEN = (
    "model",
    "budget",
    "method",
    "method_params",
    "rotation",
    "calibration",
    "finetune",
    "eval",
)
"""Keys of a run that are groups, or a method's own."""


def store_defaults() -> None:
    """Put the defaults of all typed classes into Hydra's store; again is harmless."""
    store = ConfigStore.instance()
    run = defaults(RunConfig, without=(*_CHOSEN, "tracking"))
    # What a run is compared with is a matter of the command line, not of the run.
    store.store(name="run_defaults", node={**run, "compare_with": None}, provider="crvq")
    for (group, name), model in _GROUPS.items():
        store.store(group=group, name=name, node=defaults(model), provider="crvq")
    for name, entry in CATALOG.items():
        node = {"method": name, name: defaults(entry.params)}
        store.store(group="method", name=f"_{name}", node=node, package="_global_", provider="crvq")
    for name, method in outside_methods().items():
        # No file of conf/ is needed: method=name is all defaults.
        node = {"method": name, name: defaults(method.Params)}
        store.store(group="method", name=name, node=node, package="_global_", provider=name)


def defaults(model: type[BaseModel], without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the default of every field, ``???`` where there is none."""
    return {
        name: MISSING
        if field.is_required()
        else _plain(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if name not in without
    }


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a default as OmegaConf holds it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
