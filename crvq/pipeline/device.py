"""Where tensors live."""

from __future__ import annotations

import torch

from crvq.errors import ConfigError


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
