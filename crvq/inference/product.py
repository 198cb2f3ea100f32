"""Products with a quantized linear that decode a few out features at a time, and their gradients.

No dense weight ever exists: a tile of rows is decoded, multiplied and dropped.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crvq.inference import native, numba_kernels
from crvq.inference.packed_codes import TILE
from crvq.inference.packed_linear import PackedLinear

# Elements of a decoded tile: on a CPU 4 MiB in float32, large enough for a fast matrix product
# and small enough for the last cache; a GPU wants more rows at once.
_CPU_ELEMENTS = 1 << 20
_GPU_ELEMENTS = 1 << 22


@cache
def _triton_kernels() -> ModuleType | None:
    if importlib.util.find_spec("triton") is None:
        return None
    from crvq.inference import gpu

    return gpu


def _gpu_for(linear: PackedLinear) -> ModuleType | None:
    """Return the GPU kernels if they take this linear on its device."""
    if not linear.scales.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    kernels = _triton_kernels()
    return kernels if kernels is not None and kernels.serves(linear) else None


def _kernels_for(linear: PackedLinear) -> list[ModuleType]:
    """Kernels that take this linear, the fastest first; looked up once."""
    if "kernels" not in linear.prepared:
        known = (_gpu_for(linear), native, numba_kernels)
        linear.prepared["kernels"] = [k for k in known if k is not None and k.serves(linear)]
    kernels: list[ModuleType] = linear.prepared["kernels"]
    return kernels


def tile_slices(linear: PackedLinear) -> Iterator[slice]:
    """Slices of tiles that are decoded together."""
    elements = _CPU_ELEMENTS if linear.scales.device.type == "cpu" else _GPU_ELEMENTS
    step = max(1, elements // (TILE * linear.positions))
    # Slices of about equal size: a narrow last one would be a slow product.
    count = -(-linear.tiles // step)
    bounds = [linear.tiles * i // count for i in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield slice(start, stop)


class _Decoder:
    """Decodes tile after tile, with compiled kernels into one buffer that is used again."""

    def __init__(self, linear: PackedLinear, dtype: torch.dtype, scaled: bool = True) -> None:
        self._linear, self._dtype, self._scaled = linear, dtype, scaled
        self._kernels = None
        if dtype != torch.float64:
            self._kernels = _gpu_for(linear) or (native if native.serves(linear) else None)
        self._buffer: Tensor | None = None

    def __call__(self, tiles: slice) -> Tensor:
        """Decode ``(rows, positions)``, valid until the next call."""
        if self._kernels is None:
            return self._linear.decode(tiles, self._dtype, self._scaled)
        if self._buffer is None:
            most = max(part.stop - part.start for part in tile_slices(self._linear))
            # The CPU kernels write float32 only.
            self._buffer = torch.empty(
                most * TILE,
                self._linear.positions,
                dtype=torch.float32 if self._kernels is native else self._dtype,
                device=self._linear.scales.device,
            )
        weight: Tensor = self._kernels.decode(self._linear, tiles, self._scaled, self._buffer)
        return weight.to(self._dtype)


def tiled_product(linear: PackedLinear, x: Tensor) -> Tensor:
    """``x Ŵᵀ`` for inputs ``(tokens, positions)`` in coded order: ``(tokens, out)``, no bias."""
    y = x.new_empty(len(x), linear.out_features)
    decode = _Decoder(linear, x.dtype)
    for tiles in tile_slices(linear):
        torch.mm(x, decode(tiles).t(), out=y[:, linear.rows(tiles)])
    return y


def product(linear: PackedLinear, x: Tensor, reordered: Callable[[], Tensor]) -> Tensor:
    """``x Ŵᵀ + b`` without gradients, the fastest way for the shape and the device.

    Args:
        linear: the weight and the bias.
        x: ``(tokens, in)``, natural order.
        reordered: gives x in coded order ``(tokens, positions)``; called only if needed.
    """
    if x.dtype != torch.float64 and len(x):
        for kernels in _kernels_for(linear):
            if kernels.pays(linear, len(x)):
                y: Tensor = kernels.multiply(linear, x)
                return y.to(x.dtype)
    y = tiled_product(linear, reordered())
    return y if linear.bias is None else y.add_(linear.bias.to(y.dtype))


class _TiledProduct(torch.autograd.Function):
    """`tiled_product` with gradients of the inputs, the scales and the codebooks."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        linear: PackedLinear,
        x: Tensor,
        scales: Tensor,
        *codebooks: Tensor,
    ) -> Tensor:
        """Multiply; what the backward pass reads are codes and codebooks, not decoded weights."""
        ctx.linear = linear
        ctx.save_for_backward(x, scales, *codebooks)
        return tiled_product(linear, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Decode each tile again; M = (∂L/∂y)ᵀ x is a tile of the unscaled weight's gradient."""
        (gradient,) = gradients
        linear: PackedLinear = ctx.linear
        x, scales, *codebooks = ctx.saved_tensors
        _, wants_x, wants_scales, *wants_books = ctx.needs_input_grad
        grad_x = torch.zeros_like(x) if wants_x else None
        grad_scales = torch.zeros_like(scales) if wants_scales else None
        grad_books = [
            torch.zeros_like(book) if wanted else None
            for book, wanted in zip(codebooks, wants_books, strict=True)
        ]
        decode = _Decoder(linear, x.dtype, scaled=False)
        for tiles in tile_slices(linear):
            rows = linear.rows(tiles)
            own = gradient[:, rows]
            scaled = own * scales[rows].to(own.dtype)
            if grad_x is not None or grad_scales is not None:
                weight = decode(tiles)
                if grad_x is not None:
                    grad_x.addmm_(scaled, weight)
            if grad_scales is None and not any(wants_books):
                continue
            weight_gradient = own.t() @ x
            if grad_scales is not None:
                grad_scales[rows] = (weight_gradient * weight).sum(1).to(scales.dtype)
            weight_gradient *= scales[rows, None].to(own.dtype)
            vectors = weight_gradient.unflatten(1, (-1, linear.group_size))
            for k, grad_book in enumerate(grad_books):
                if grad_book is not None:
                    covered = vectors[:, : linear.groups[k]].flatten(0, 1).to(grad_book.dtype)
                    # An entry's gradient is the sum over all places where it is used.
                    grad_book.index_add_(0, linear.unpacked(k, tiles).flatten(), covered)
        return None, grad_x, grad_scales, *grad_books


def differentiable_product(linear: PackedLinear, x: Tensor) -> Tensor:
    """`tiled_product` through which gradients flow to inputs, scales and codebooks.

    Codebooks and scales get gradients when they require them, which needs a floating type.
    """
    return _TiledProduct.apply(linear, x, linear.scales, *linear.codebooks)
