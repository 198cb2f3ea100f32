"""Digests of what a quantized model is made from."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from crvq.config import RunConfig
from crvq.models.digest import model_digest, tensor_digest
from crvq.tracking.run_id import quantization_fingerprint_config

__all__ = ["derived_seed", "fingerprint", "model_digest", "tensor_digest"]


def fingerprint(
    config: RunConfig,
    weights: str,
    windows: Tensor,
    activation_dtype: torch.dtype,
    device_type: str = "cpu",
    fitted: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What packed blocks depend on; blocks are gone on from only if all of it is equal.

    Args:
        config: the run's.
        weights: `model_digest` of the full-precision model.
        windows: calibration tokens.
        activation_dtype: of forward passes.
        device_type: where blocks are quantized.
        fitted: parameters that a budget changed: its rule may not be what it was.
    """
    # device=auto may have come to something else; a CPU's blocks are told as they always were.
    elsewhere = {} if device_type == "cpu" else {"device_type": device_type}
    return {
        **quantization_fingerprint_config(config),
        "weights_sha256": weights,
        "calibration_tokens_sha256": tensor_digest(windows),
        "activation_dtype": str(activation_dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **elsewhere,
        **({"fitted": fitted} if fitted else {}),
    }


def derived_seed(seed: int, name: str) -> int:
    """A seed of its own for each named thing, whatever came before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
