"""The quantized weight: its parts, how it decodes, and what it weighs in bits."""

from crvq.weights.additive import AdditiveWeight
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight, unpack_weight

__all__ = ["AdditiveWeight", "BitCount", "QuantizedWeight", "unpack_weight"]
