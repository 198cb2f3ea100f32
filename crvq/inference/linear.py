"""A linear layer that stays quantized: packed codes, codebooks and scales, never a dense weight."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from crvq.inference.packed_linear import PackedLinear, pack_linear
from crvq.inference.product import differentiable_product, product
from crvq.weights.additive import AdditiveWeight


class Reorder(nn.Module):
    """Inputs in coded order, computed once for all linears that share a permutation and an input.

    Args:
        order: as in `PackedLinear`.
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self._last: list[tuple[weakref.ref[Tensor], int, Tensor]] = []

    def forward(self, x: Tensor, linear: PackedLinear) -> Tensor:
        """Reorder ``(tokens, in)``, or return what the last call made of the same tensor."""
        if x.is_inference() or (x.requires_grad and torch.is_grad_enabled()):
            # Inference tensors count no changes in place; with gradients each use needs its own
            # place in the graph.
            return linear.reorder(x)
        for seen, version, result in self._last:
            if seen() is x and version == x._version:
                return result
        last, result = self._last, linear.reorder(x)
        # Dropped as soon as the input is, so that a model's layers do not all keep a copy.
        last[:] = [(weakref.ref(x, lambda _: last.clear()), x._version, result)]
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": []}


class QuantizedLinear(nn.Module):
    """``y = x Ŵᵀ + b`` with ``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])`` kept in its parts.

    Buffers: ``codes_k`` (bit-packed), ``codebook_k``, ``steps_k`` (int8 codebooks), ``scales``,
    ``reorder.order`` (only with a permutation) and ``bias``. ``.to(dtype)`` leaves them as stored:
    outputs have the inputs' dtype.

    Args:
        linear: the tensors; they are not copied.
    """

    scales: Tensor
    bias: Tensor | None
    reorder: Reorder | None

    def __init__(self, linear: PackedLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits, self.groups = list(linear.bits), list(linear.groups)
        for k, (codes, codebook) in enumerate(zip(linear.codes, linear.codebooks, strict=True)):
            self.register_buffer(f"codes_{k}", codes)
            self.register_buffer(f"codebook_{k}", codebook)
            self.register_buffer(f"steps_{k}", linear.steps[k])
        self.register_buffer("scales", linear.scales)
        self.register_buffer("bias", linear.bias)
        self.reorder = None if linear.order is None else Reorder(linear.order)
        self._packed: tuple[PackedLinear, tuple[Tensor | None, ...]] | None = None

    @classmethod
    def from_weight(cls, weight: AdditiveWeight, bias: Tensor | None = None) -> Self:
        """Make a linear of a quantized weight.

        Args:
            weight: as a method or a checkpoint gives it.
            bias: ``(out,)``.
        """
        return cls(pack_linear(weight, bias))

    @property
    def packed(self) -> PackedLinear:
        """The tensors as the kernels take them; made again when a buffer was replaced."""
        order = None if self.reorder is None else self.reorder.order
        tensors = (*self._buffers.values(), *self._parameters.values(), order)
        if self._packed is not None:
            packed, held = self._packed
            if len(held) == len(tensors) and all(map(_same, held, tensors)):
                return packed
        count = range(len(self.bits))
        packed = PackedLinear(
            self.out_features,
            self.in_features,
            [getattr(self, f"codes_{k}") for k in count],
            self.bits,
            self.groups,
            [getattr(self, f"codebook_{k}") for k in count],
            [getattr(self, f"steps_{k}") for k in count],
            self.scales,
            order,
            self.bias,
        )
        self._packed = packed, tensors
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """Multiply inputs ``(..., in)``: ``(..., out)`` in the inputs' dtype."""
        linear = self.packed
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if torch.is_grad_enabled() and (x.requires_grad or self._trains()):
            y = differentiable_product(linear, linear.reorder(flat))
            y = y if self.bias is None else y + self.bias.to(y.dtype)
        else:
            # The cache of reordered inputs recognizes the tensor that q, k and v are all given.
            y = product(linear, flat, lambda: self._reordered(x, linear))
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def train_parts(self, codebooks: bool = True, scales: bool = True) -> Self:
        """Make codebooks and scales float32 parameters that require gradients; codes stay fixed."""
        for k in range(len(self.bits)):
            if codebooks:
                entries = self.packed.entries(k, torch.float32)
                self._buffers.pop(f"codebook_{k}", None)
                self.register_parameter(f"codebook_{k}", nn.Parameter(entries))
                setattr(self, f"steps_{k}", None)
        if scales:
            values = self.scales.detach().float()
            self._buffers.pop("scales", None)
            self.register_parameter("scales", nn.Parameter(values))
        return self

    def extra_repr(self) -> str:
        """Shapes, as nn.Linear prints them."""
        coverage = " + ".join(f"{g}x{b}" for g, b in zip(self.groups, self.bits, strict=True))
        return f"in={self.in_features}, out={self.out_features}, codes per row (bits)={coverage}"

    def _reordered(self, x: Tensor, linear: PackedLinear) -> Tensor:
        coded = linear.reorder(x) if self.reorder is None else self.reorder(x, linear)
        return coded.reshape(-1, linear.positions)

    def _trains(self) -> bool:
        return any(
            parameter.requires_grad
            for parameter in self._parameters.values()
            if parameter is not None
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move as asked, but keep each buffer's dtype: a cast would change the stored weight."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        self._packed = None
        return super()._apply(moved, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


def share_reorders(model: nn.Module) -> int:
    """Let linears with one in_features and equal permutations share a `Reorder`; return how many.

    Only neighbours, that is linears that are given the very same tensor, gain from it: q, k and v,
    or gate and up.
    """
    known: dict[tuple[int, bytes], Reorder] = {}
    shared = 0
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and module.reorder is not None:
            order = module.reorder.order
            key = module.in_features, order.cpu().numpy().tobytes()
            first = known.setdefault(key, module.reorder)
            shared += first is not module.reorder
            module.reorder = first
            module._packed = None
    return shared


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b
