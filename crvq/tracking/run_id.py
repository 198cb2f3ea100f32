"""The identity of a run: its configuration, as far as it changes results, and the algorithms."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from crvq.config import RunConfig
from crvq.config.finetune import FINETUNE_REVISION
from crvq.config.rotation import ROTATION_REVISION
from crvq.config.strict import is_neutral
from crvq.methods.registry import algorithm_revisions

NOT_IDENTITY = frozenset(
    name for name, field in RunConfig.model_fields.items() if is_neutral(field)
)
"""Top-level keys that say where a run goes, how it is watched and what is measured on it."""


def run_id(config: RunConfig) -> str:
    """Return the name of a run: ``<model>-<method>-<12 hex digits>``.

    The digits are a SHA-256 of everything that changes the quantized model: the typed
    configuration's `identity` (so ``1`` and ``1.0`` for a float are the same run, and so is any
    order of keys) and the revisions of the algorithms (so results of an older solver have another
    name). ``model.name`` is a label: it is in the name, not in the digits.

    Raises:
        TypeError: ``method_params`` is not typed by its method yet.
        ConfigError: no such method.
    """
    digest = _digest({**config.identity(), "algorithm": algorithm(config)})[:12]
    return f"{_slug(config.model.name, 36)}-{_slug(config.method, 12)}-{digest}"


def algorithm(config: RunConfig) -> dict[str, int]:
    """Return the revision of every algorithm that a run's quantized model depends on.

    Returns:
        ``{"crvq": 1, "solver": 2}``; with a rotation or fine-tuning also those.

    Raises:
        ConfigError: no such method.
    """
    revisions = algorithm_revisions(config.method)
    if config.rotation.asked:
        revisions["rotation"] = ROTATION_REVISION
    return {**revisions, "finetune": FINETUNE_REVISION} if config.finetune.asked else revisions


def quantization_fingerprint_config(config: RunConfig) -> dict[str, Any]:
    """Return the part of ``config`` that determines the packed blocks.

    Packed blocks may be resumed only under an equal fingerprint. ``auto`` values are not
    resolved here: add what they came to (device, activation dtype), and digests of the weights
    and of the calibration tokens, which paths and names cannot vouch for.
    """
    return {**config.identity(), "algorithm": algorithm(config)}


def _digest(values: dict[str, Any]) -> str:
    """Return the SHA-256 of canonical JSON, in hex."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _slug(name: str, length: int) -> str:
    """Return ``name`` in letters, digits, ``.`` and ``_``, short enough for W&B's ids (64)."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", name)[:length].strip("._") or "run"
