"""Whether code search can run in fused GPU kernels here."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor


def fused_groups_for(device: torch.device, codebooks: list[Tensor]) -> ModuleType | None:
    """`crvq.vq.fused_groups` if Triton is installed and it takes these codebooks, else None.

    ``CRVQ_FUSED=0`` turns the kernels off, to compare or to get out of their way.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    module = _fused_groups()
    return module if module is not None and module.serves(device, codebooks) else None


@cache
def _fused_groups() -> ModuleType | None:
    if os.environ.get("CRVQ_FUSED") == "0" or importlib.util.find_spec("triton") is None:
        return None
    from crvq.vq import fused_groups

    return fused_groups
