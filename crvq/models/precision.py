"""Devices, and the floating-point type in which forward passes compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from crvq.errors import ConfigError


def resolve_activation_dtype(
    name: str, device: torch.device, weights: torch.dtype = torch.float32
) -> torch.dtype:
    """Return the type behind the run's ``activation_dtype``.

    Args:
        name: ``float32``, ``bfloat16`` or ``auto``. ``auto`` is bfloat16 where the device has
            instructions for it (emulated, it is slower than float32) or the weights are bfloat16.
        device: where the model computes.
        weights: the type in which the model's weights are held.

    Raises:
        ConfigError: an unknown name, or float32 computation asked of bfloat16 weights.
    """
    if name == "bfloat16":
        return torch.bfloat16
    if name == "auto":
        fast = weights == torch.bfloat16 or _computes_in_bfloat16(device)
        return torch.bfloat16 if fast else torch.float32
    if name != "float32":
        raise ConfigError(f"activation_dtype={name} is unknown; allowed: auto, float32, bfloat16")
    if weights != torch.float32:
        raise ConfigError(
            f"activation_dtype=float32 needs float32 weights, but model.dtype={str(weights)[6:]}; "
            "set model.dtype=float32, or activation_dtype=auto"
        )
    return torch.float32


def forward_precision(
    device: torch.device, activation_dtype: torch.dtype
) -> AbstractContextManager[None]:
    """Return a context in which a model's forward pass computes in ``activation_dtype``.

    bfloat16 is autocast: weights are rounded on their way into a matrix product, the stored ones
    stay as they are, and a float32 model keeps its norms and residual stream in float32.
    """
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=activation_dtype == torch.bfloat16
    )


@contextmanager
def measuring_precision(
    model: nn.Module, device: torch.device, activation_dtype: torch.dtype
) -> Iterator[None]:
    """As `forward_precision`, for many forward passes of weights that do not change inside.

    Autocast rounds the weights of a model without gradients at every pass; here they are
    rounded once, to the very same values, at the cost of a bfloat16 copy of the linears (half of
    what they take). The model has its own weights back afterwards. May be nested.
    """
    swapped: list[tuple[nn.Linear | Conv1D, nn.Parameter]] = []
    try:
        if activation_dtype == torch.bfloat16:
            for module in model.modules():
                if isinstance(module, (nn.Linear, Conv1D)):
                    weight = module.weight
                    # Blocks on disk are read for each use, and autocast rounds them then.
                    if not isinstance(weight, nn.Parameter) or weight.is_meta:
                        continue
                    if weight.dtype == torch.float32:
                        swapped.append((module, weight))
                        module.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        with forward_precision(device, activation_dtype):
            yield
    finally:
        for module, weight in swapped:
            module.weight = weight


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older releases of torch cannot be asked: float32 is always right.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(n, False) for n in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def compute_kind(device: torch.device) -> str:
    """Return the kind of hardware that decides how sums are rounded, for keys of cached results.

    The GPU's name, or the vector instructions that torch uses on the CPU.
    """
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return device.type


def device_name(device: torch.device) -> str | None:
    """Return what the maker calls a GPU; None for a CPU, whose model the record has anyway."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def resolve_device(name: str) -> torch.device:
    """Return the device behind the run's ``device``; ``auto`` is the first GPU if there is one.

    Raises:
        ConfigError: a name torch does not know, or a GPU where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device={name} is not a device; allowed: auto, cpu, cuda, cuda:0, ..."
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device={name} asks for a GPU, but torch {torch.__version__} sees {count}; "
                "set device=cpu (or device=auto, which takes a GPU only where there is one)"
            )
    elif device.type != "cpu":
        raise ConfigError(f"device={name} is not supported; allowed: auto, cpu, cuda, cuda:0, ...")
    return device
