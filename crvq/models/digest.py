"""Digests of tensors and of a model's weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


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
