"""The empirical entropy of codes: what an ideal entropy coder would make of them."""

from __future__ import annotations

import torch
from torch import Tensor


def order0_bits(counts: Tensor) -> float:
    """Bits that symbols take when each costs ``-log2`` of its own frequency.

    The limit of any coder that looks at one symbol at a time and knows the frequencies; the table
    of frequencies itself is not counted.

    Args:
        counts: how often each symbol occurs, ``(..., symbols)``; rows are sources of their own,
            each coded with its own frequencies.
    """
    counts = counts.double()
    totals = counts.sum(-1, keepdim=True)
    frequencies = (counts / totals.clamp_min(1)).clamp_min(torch.finfo(torch.float64).tiny)
    return float(-(counts * frequencies.log2()).sum())


def code_entropy_bits(codes: Tensor) -> float:
    """`order0_bits` of all of ``codes`` (non-negative integers of any shape) as one source."""
    return order0_bits(torch.bincount(codes.flatten().long()))


def mask_entropy_bits(mask: Tensor) -> float:
    """`order0_bits` of a bool tensor."""
    ones = int(mask.sum())
    return order0_bits(torch.tensor([ones, mask.numel() - ones]))
