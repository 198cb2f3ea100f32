"""The quantized linear: runs on packed codes, on CPUs and GPUs, with and without gradients."""

from crvq.inference.linear import QuantizedLinear, share_reorders

__all__ = ["QuantizedLinear", "share_reorders"]
