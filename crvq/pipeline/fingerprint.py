"""Digests of what a quantized model is made from."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from crvq.config import RunConfig
from crvq.models.digest import model_digest, tensor_digest
from crvq.tracking.run_id import algorithm

__all__ = ["ROUNDING_ONLY", "derived_seed", "fingerprint", "model_digest", "tensor_digest"]

ROUNDING_ONLY = frozenset({"threads", "torch"})
"""Keys of a fingerprint that change only how sums round: a run resumes although they differ."""


def fingerprint(
    config: RunConfig,
    weights: str,
    windows: Tensor,
    activation_dtype: torch.dtype,
    device_type: str = "cpu",
    fitted: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that packed blocks depend on; a run resumes only if the fingerprints match.

    Args:
        config: the run's.
        weights: `model_digest` of the full-precision model.
        windows: calibration tokens.
        activation_dtype: of forward passes.
        device_type: where blocks are quantized.
        fitted: parameters that a budget changed: its rule may not be what it was.
    """
    return {
        **config.identity(),
        "algorithm": algorithm(config),
        "model_sha256": weights,
        "calibration_tokens_sha256": tensor_digest(windows),
        "activation_dtype": str(activation_dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device_type": device_type,
        **({"fitted": fitted} if fitted else {}),
    }


def derived_seed(seed: int, name: str) -> int:
    """Return a separate seed for each named thing, independent of what was drawn before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
