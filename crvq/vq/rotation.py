"""Orthogonal changes of basis for the in features of a linear layer.

For an orthogonal R, ``x Wᵀ = (x R) (W R)ᵀ``: a layer computes the same from rotated inputs with
rotated weights. A randomized Hadamard matrix spreads every weight and every activation over many
coordinates, which makes outliers rare (QuaRot, arXiv 2404.00456; QuIP#, arXiv 2402.04396, section
3). The Hessian becomes ``Rᵀ H R``, and losses stay what they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# A Hadamard matrix of 64 or less is one small product; larger ones are products of such.
_LARGEST_FACTOR = 64


@dataclass
class Rotation:
    """Signs, then an orthogonal matrix on each block of the rotated in features."""

    signs: Tensor
    """``(rotated,)`` of -1 and 1, float32."""
    rotated: Tensor
    """``(rotated,)``, int64: in features that take part, in the order in which blocks take them."""
    block: int
    """In features of a block; divides their number."""

    def forward(self, values: Tensor) -> Tensor:
        """Return ``X R`` for rows of in features ``X (..., in)``."""
        return self._placed(values, self._mix(values[..., self.rotated] * self.signs))

    def inverse(self, values: Tensor) -> Tensor:
        """Return ``X Rᵀ`` for rows of rotated in features ``X (..., in)``."""
        return self._placed(values, self._mix(values[..., self.rotated], back=True) * self.signs)

    def hessian(self, matrix: Tensor) -> Tensor:
        """Return ``Rᵀ H R`` for H ``(in, in)``."""
        # The second product works on rows of the transpose; symmetry makes that the same matrix.
        return self.forward(self.forward(matrix).mT.contiguous())

    def spread(self, importance: Tensor) -> Tensor:
        """Return the diagonal of ``Rᵀ D R`` for a diagonal D, both ``(in,)``.

        For a block of Hadamard entries ±1/√b this is the mean of D over the block.
        """
        blocks = importance[self.rotated].view(-1, self.block)
        squares = [factor.square() for factor in _factors(self.block)]
        return self._placed(importance, _times(blocks, squares).flatten())

    def to(self, device: torch.device) -> Rotation:
        """Return the same rotation on another device."""
        return Rotation(self.signs.to(device), self.rotated.to(device), self.block)

    def _placed(self, values: Tensor, part: Tensor) -> Tensor:
        result = values.clone()
        result[..., self.rotated] = part
        return result

    def _mix(self, values: Tensor, back: bool = False) -> Tensor:
        """Multiply blocks of the last dimension by Q, or by Qᵀ."""
        factors = _factors(self.block)
        return _times(values, [factor.mT for factor in factors] if back else list(factors))


def draw_rotation(
    importance: Tensor, block: int | None, keep: float, generator: torch.Generator
) -> Rotation:
    """Choose which in features are rotated, and draw signs.

    Args:
        importance: ``(in,)``; the largest are kept as they are.
        block: in features of a block, or None: one block of all that are rotated.
        keep: part to keep; more are kept where the rest is not a whole number of blocks.
        generator: of the signs, on the CPU.
    """
    in_features = len(importance)
    kept = math.ceil(keep * in_features)
    rotated = in_features - kept
    if block is not None:
        rotated -= rotated % block
    ranked = importance.cpu().argsort(descending=True, stable=True)
    # In natural order: which channels share a block then does not hang on small differences.
    places = ranked[in_features - rotated :].sort().values
    signs = torch.randint(0, 2, (rotated,), generator=generator).float() * 2 - 1
    return Rotation(
        signs.to(importance.device), places.to(importance.device), block or max(rotated, 1)
    )


@cache
def _factors(size: int) -> tuple[Tensor, ...]:
    """Return orthogonal matrices whose Kronecker product is the matrix of a block.

    Hadamard matrices of powers of two, and for an odd factor (no Hadamard matrix is known for
    every size) that of the discrete cosine transform.
    """
    odd = size
    factors = []
    while odd % 2 == 0:
        power = min(_LARGEST_FACTOR, odd & -odd)
        factors.append(_hadamard(power))
        odd //= power
    if odd > 1 or not factors:
        factors.append(_cosines(odd))
    return tuple(factors)


def _times(values: Tensor, factors: list[Tensor]) -> Tensor:
    """Multiply blocks of the last dimension by the Kronecker product of factors."""
    shaped = values.reshape(-1, *(len(factor) for factor in factors))
    for axis, factor in enumerate(factors, start=1):
        # A Kronecker product acts on each axis by itself, in any order.
        shaped = (shaped.movedim(axis, -1) @ factor.to(values)).movedim(-1, axis)
    return shaped.reshape(values.shape)


def _hadamard(size: int) -> Tensor:
    """Return Sylvester's Hadamard matrix, scaled to be orthogonal; float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(step, matrix)
    return matrix / math.sqrt(size)


def _cosines(size: int) -> Tensor:
    """Return the orthogonal matrix of the discrete cosine transform (DCT-II); float64."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place[:, None] + 0.5) * place)
    matrix[:, 0] *= math.sqrt(0.5)
    return matrix * math.sqrt(2 / size)
