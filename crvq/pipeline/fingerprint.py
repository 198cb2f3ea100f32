"""Digests of what a quantized model is made from."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from crvq.config import RunConfig
from crvq.tracking.run_id import quantization_fingerprint_config


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's shape, type and bytes."""
    summed = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    summed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return summed.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all parameters and persistent buffers, by name."""
    summed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        summed.update(name.encode())
        summed.update(tensor_digest(tensor.reshape(-1)).encode())
    return summed.hexdigest()


def fingerprint(
    config: RunConfig, weights: str, windows: Tensor, activation_dtype: torch.dtype
) -> dict[str, Any]:
    """What packed blocks depend on; blocks are gone on from only if all of it is equal."""
    return {
        **quantization_fingerprint_config(config),
        "weights_sha256": weights,
        "calibration_tokens_sha256": tensor_digest(windows),
        "activation_dtype": str(activation_dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def derived_seed(seed: int, name: str) -> int:
    """A seed of its own for each named thing, whatever came before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
