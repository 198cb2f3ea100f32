"""What a quantized key-value cache does to a model: RotateKV at 2 bits.

(Su et al., arXiv 2501.16383.) Attention reads keys and values as such a cache would give them back:
the outputs of a block's ``k_proj`` and ``v_proj``, rounded and restored. So keys are stored before
the rotary embedding, as in the paper, and every head that reads them sees the same numbers.

Where the paper calibrates the order of channels beforehand and finds attention sinks by their
massive activations, here the order is that of the sequence's first `ORDER_TOKENS` tokens, as a
prefill knows them, and its first `KEPT_TOKENS` tokens are kept: no text but the context is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

KvCacheKind = Literal["rotatekv2"]

REVISION = 1
"""Raise by one when quantized caches give other results."""
BITS = 2
KEPT_TOKENS = 4
"""First tokens of a sequence, whose keys and values stay as they are."""
ORDER_TOKENS = 64
"""Keys of the first so many tokens decide how channels are dealt to groups."""
_LARGEST_GROUP = 128


def group_size(channels: int) -> int:
    """Return the largest power of two up to 128 that divides the channels of all heads."""
    return min(channels & -channels, _LARGEST_GROUP)


def cache_bits(channels: int, tokens: int) -> float:
    """Return the bits per number: codes, float16 step and minimum per group, and kept tokens."""
    kept = min(KEPT_TOKENS, tokens)
    coded = BITS + 32 / group_size(channels)
    return (kept * 16 + (tokens - kept) * coded) / tokens


def through_cache(values: Tensor, reorder: bool) -> Tensor:
    """Return keys or values as the cache gives them back.

    Channels are dealt to groups so that each has its share of large ones, rotated in their group
    by a Hadamard matrix, and rounded to four levels between the group's least and largest number,
    for each token by itself.

    Args:
        values: ``(..., tokens, channels)`` of all heads, before the rotary embedding.
        reorder: deal channels by their size (keys); else groups are neighbours (values).
    """
    # Autocast would round the rotated numbers once more, to bfloat16.
    with torch.autocast(values.device.type, enabled=False):
        return _through_cache(values, reorder)


def _through_cache(values: Tensor, reorder: bool) -> Tensor:
    *_, tokens, channels = values.shape
    group = group_size(channels)
    numbers = values.float()
    if reorder:
        sizes = numbers[..., :ORDER_TOKENS, :].abs().mean(-2)
        ranked = sizes.argsort(dim=-1, descending=True, stable=True)
        # Of every `groups` channels that follow each other in size, each group takes one.
        order = ranked.unflatten(-1, (group, channels // group)).mT.flatten(-2)
    else:
        order = torch.arange(channels, device=values.device).expand(*values.shape[:-2], channels)
    places = order.unsqueeze(-2).expand(numbers.shape)
    mixing = _hadamard(group).to(values.device)
    rotated = numbers.gather(-1, places).unflatten(-1, (-1, group)) @ mixing
    low, high = rotated.amin(-1, keepdim=True), rotated.amax(-1, keepdim=True)
    low = low.half().float()
    step = ((high - low) / (2**BITS - 1)).half().float().clamp_min(2.0**-24)
    rounded = ((rotated - low) / step).round().clamp(0, 2**BITS - 1) * step + low
    restored = torch.empty_like(numbers).scatter_(-1, places, (rounded @ mixing.mT).flatten(-2))
    kept = torch.arange(tokens, device=values.device)[:, None] < KEPT_TOKENS
    return torch.where(kept, values, restored.to(values.dtype))


def cache_projections(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose outputs a cache holds, by name; empty where they are fused."""
    found = {
        name: module
        for name, module in model.named_modules()
        if name.endswith((".k_proj", ".v_proj"))
    }
    both = [sum(name.endswith(end) for name in found) for end in (".k_proj", ".v_proj")]
    return found if both[0] == both[1] else {}


@contextmanager
def quantized_cache(model: nn.Module) -> Iterator[None]:
    """Let attention read keys and values as a quantized cache gives them back."""
    hooks = [
        module.register_forward_hook(_keys if name.endswith(".k_proj") else _values)
        for name, module in cache_projections(model).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keys(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return through_cache(output, reorder=True)


def _values(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return through_cache(output, reorder=False)


@cache
def _hadamard(size: int) -> Tensor:
    """Return Sylvester's Hadamard matrix, made orthogonal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
