"""Any method in a rotated basis: the inputs of linear layers are rotated before it sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crvq.config.rotation import RotationConfig
from crvq.methods.budget import BudgetError
from crvq.methods.method import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.vq.hessian import Hessian
from crvq.vq.rotation import Rotation, draw_rotation
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.rotated import RotatedWeight


class RotatedMethod(Method[Any]):
    """Rotates each distinct input once, and hands rotated weights to a method.

    Losses need no correction: ``tr(E R Rᵀ H R Rᵀ Eᵀ)`` is the loss of the rotated-back error.

    Args:
        inner: the method.
        rotation: which rotation; ``kind`` is not ``none``.
    """

    def __init__(self, inner: Method[Any], rotation: RotationConfig) -> None:
        super().__init__(inner.params, inner.seed)
        self.inner, self.rotation = inner, rotation
        # What the pipeline asks of a class, as this instance's method has it.
        self.quantizes, self.fits_budgets = inner.quantizes, inner.fits_budgets  # type: ignore[misc]

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the rotated linears; yields weights that rotate back."""
        rotated, rotations = self._rotate(linears)
        sources = {linear.name: linear for linear in linears}
        for done in self.inner.quantize_block(block, rotated):
            name = done.source.name
            weight = RotatedWeight(done.weight, rotations[name])
            yield replace(done, source=sources[name], weight=weight)

    def prepare_blocks(self, count: int) -> Sequence[int]:
        """As the method asks."""
        return self.inner.prepare_blocks(count)

    def prepare(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Show the method rotated blocks."""
        self.inner.prepare([self._rotate(linears)[0] for linears in blocks], kinds)

    def shared_tensors(self) -> dict[str, Tensor]:
        """Of the method."""
        return self.inner.shared_tensors()

    def restore_shared(self, tensors: dict[str, Tensor]) -> None:
        """Of the method."""
        self.inner.restore_shared(tensors)

    def plan(self) -> dict[str, Any]:
        """Of the method."""
        return self.inner.plan()

    def restore_plan(self, plan: Mapping[str, Any]) -> None:
        """Of the method."""
        self.inner.restore_plan(plan)

    @property
    def divides_blocks(self) -> bool:
        """As the method."""
        return self.inner.divides_blocks

    @property
    def wants_sensitivity(self) -> bool:
        """As the method: outputs, which it is about, are the same in any basis of the inputs."""
        return self.inner.wants_sensitivity

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Show the method its own weights."""
        self.inner.on_block_stored(
            {
                kind: weight.inner if isinstance(weight, RotatedWeight) else weight
                for kind, weight in weights.items()
            }
        )

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Of the method."""
        return self.inner.effective(shapes)

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount | None:
        """Of the method, and of the rotations."""
        inner = self.inner.count_bits(shapes)
        own = (BitCount(other=self._bits(shape)) for shape in shapes)
        return None if inner is None else sum(own, inner)

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> Any:  # noqa: ANN401
        """Fit the method's parameters to what the signs of the rotation leave of the budget."""
        weights = sum(shape.out_features * shape.in_features for shape in shapes)
        own = sum(self._bits(shape) for shape in shapes) / weights
        try:
            return self.inner.fit_budget(bits - own, shapes)
        except BudgetError as error:
            raise BudgetError(str(error), error.nearest + own) from error

    def _bits(self, shape: LinearShape) -> float:
        importance = torch.zeros(shape.in_features)
        rotation = self._draw(importance, 0)
        return RotatedWeight.count_rotation(shape.in_features, len(rotation.signs)).total

    def _draw(self, importance: Tensor, seed: int) -> Rotation:
        block = self.rotation.block if self.rotation.kind == "block_hadamard" else None
        generator = torch.Generator().manual_seed(seed)
        return draw_rotation(importance, block, self.rotation.keep, generator)

    def _rotate(
        self, linears: Sequence[LinearInput]
    ) -> tuple[list[LinearInput], dict[str, Rotation]]:
        """Return rotated linears, and the rotation of each by name."""
        readers: dict[int, list[LinearInput]] = {}
        for linear in linears:
            readers.setdefault(id(linear.hessian), []).append(linear)
        changed: dict[int, tuple[Rotation, Hessian]] = {}
        for key, reading in readers.items():
            hessian = reading[0].hessian
            # Linears with one input have one rotation: at inference the input is rotated once.
            energy = torch.stack([one.weight.square().sum(0) for one in reading]).sum(0)
            rotation = self._draw(hessian.matrix.diagonal() * energy, reading[0].seed)
            matrix = rotation.hessian(hessian.matrix)
            changed[key] = rotation, Hessian((matrix + matrix.mT) / 2, hessian.damping)
        rotated, rotations = [], {}
        for linear in linears:
            rotation, hessian = changed[id(linear.hessian)]
            rotated.append(replace(linear, weight=rotation.forward(linear.weight), hessian=hessian))
            rotations[linear.name] = rotation
        return rotated, rotations
