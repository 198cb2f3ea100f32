"""The quantized weight: its parts, how it decodes, and what it weighs in bits."""

from __future__ import annotations

import importlib
import pkgutil

from crvq.weights.additive import AdditiveWeight
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight, unpack_weight

# A new format is one new file: imported here, it is known when a checkpoint is read.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["AdditiveWeight", "BitCount", "QuantizedWeight", "unpack_weight"]
