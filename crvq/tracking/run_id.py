"""The identity of a run: which parts of a configuration decide its result."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel

from crvq.config import RunConfig

IDENTITY_VERSION = 1
"""Raised when the same configuration starts to mean something else: old runs are then redone."""

NOT_IDENTITY = frozenset(
    {
        "experiment",
        "force",
        "results_dir",
        "cache_dir",
        "tracking",
        "threads",
        "eval",
        "eval_only",
    },
)
"""Keys that say where a run goes, how it is watched and what is measured on it, not what it makes.

``eval`` is among them because a run is its quantized model: measurements asked for later are added
to the same record, without quantizing again (:mod:`crvq.pipeline.add_evaluation`).

``threads`` is among them although sums over another number of threads round differently in the
last bits: a sweep that moves to a machine with more cores is still the same sweep. Records keep
the number of threads, and a resumed run is bit for bit the same only with the same number.
"""


def run_id(config: RunConfig) -> str:
    """Name of a run: ``<model>-<method>-<12 hex digits>``.

    The digits are a SHA-256 of everything in ``config`` that changes results, after typing, so
    that ``1`` and ``1.0`` for a float are the same run, and so is the order of keys. Of the
    device only its kind counts (``cuda:1`` is ``cuda``); ``auto`` stays as asked, so that a
    sweep can be continued elsewhere. Labels (``model.name``, ``budget.name``) are not hashed;
    the first is in the name.

    Raises:
        TypeError: ``method_params`` is not typed by its method yet.
    """
    digest = _digest(identity_config(config))[:12]
    return f"{_slug(config.model.name, 36)}-{_slug(config.method, 12)}-{digest}"


def identity_config(config: RunConfig) -> dict[str, Any]:
    """All of ``config`` that changes results, as JSON can say it."""
    if not isinstance(config.method_params, BaseModel):
        raise TypeError(
            f"method_params is a {type(config.method_params).__name__}; the method must type it "
            "(a pydantic model) before a run can be named"
        )
    values = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    values["device"] = config.device.split(":")[0]
    for label in ("name", "note"):
        values["model"].pop(label)
    values["budget"].pop("name")
    if not config.finetune.asked:
        values.pop("finetune")  # runs from before there was any keep their name
    if values["method_params"].get("warm_start") is False:
        values["method_params"].pop("warm_start")
    # Only what differs from how runs were named before there was a choice.
    if not values["model"]["wheels"]:
        values["model"].pop("wheels")
    if values["calibration"]["bos"] == "auto":
        values["calibration"].pop("bos")
    if values["budget"]["out_of_reach"] == "error":
        values["budget"].pop("out_of_reach")
    return values


def quantization_fingerprint_config(config: RunConfig) -> dict[str, Any]:
    """The part of ``config`` that determines the packed blocks.

    Packed blocks may be resumed only under an equal fingerprint. ``auto`` values are not
    resolved here: add what they came to (device, activation dtype), and digests of the weights
    and of the calibration tokens, which paths and names cannot vouch for.
    """
    return identity_config(config)


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 of canonical JSON, in hex."""
    canonical = json.dumps(
        {"identity_version": IDENTITY_VERSION, **values},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _slug(name: str, length: int) -> str:
    """``name`` with only letters, digits, ``.``, ``_``; cut so that W&B takes the id (64)."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", name)[:length].strip("._") or "run"
