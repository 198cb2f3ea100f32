"""The free values of quantized linears and norms, and their way into the model and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crvq.errors import ConfigError
from crvq.finetune.dense_weights import WHOLE, DenseWeights
from crvq.models.blocks import LinearSlot
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import Importance, Parts, TrainableWeight, trainable

Values = dict[str, Tensor]
"""Float32 values by name of a leaf."""


@dataclass(frozen=True)
class QuantizedSlot:
    """A linear of the model and the quantized weight in it."""

    name: str
    """Unique among those that are trained together."""
    slot: LinearSlot
    weight: QuantizedWeight


@dataclass(frozen=True)
class Snapshot:
    """A state of everything that a training may change, as it lies in storage."""

    weights: dict[str, QuantizedWeight]
    """By name of the linear, codes included."""
    others: dict[str, Tensor]
    """Norms and biases by name, in 16 bits; at the start as they were."""


@dataclass
class Leaf:
    """One free tensor. The optimizer sees ``free``; its value is ``free * unit``."""

    kind: str
    """codebooks, scales or norms."""
    free: Tensor
    unit: float
    """A power of two, so that values survive the way there and back bit for bit."""

    @property
    def value(self) -> Tensor:
        """Float32."""
        return self.free * self.unit


@dataclass
class _Linear:
    slot: LinearSlot
    weight: TrainableWeight
    start: QuantizedWeight
    leaves: dict[str, str]
    """The leaf behind each part; parts without one are fixed."""
    free_codes: bool = False
    fixed: dict[str, Tensor] = field(default_factory=dict)
    gradient: Tensor | None = None
    """Sum of dense gradients since they were taken; kept for linears with free codes."""

    @property
    def trained(self) -> bool:
        return bool(self.leaves) or self.free_codes

    def parts(self, values: Mapping[str, Tensor]) -> Parts:
        return {**self.fixed, **{part: values[leaf] for part, leaf in self.leaves.items()}}


class FreeValues:
    """All that one training may change.

    The model's own parameters stand in for dense weights: `write` puts decoded weights there, a
    backward pass leaves gradients there, and `gradients` turns each of them, as soon as it is
    complete, into gradients of codebooks and scales and frees it. So no graph of the decoding and
    no more than one dense gradient is held.

    Args:
        linears: quantized linears, in any formats.
        others: full-precision parameters to train, by name; norms and biases.
        kinds: which of codebooks, scales and norms are free.
        relative: leaves are in units of about their root mean square.
        fixed_sets: names of codebook sets that must not change here.
        codes: whether codes are free too; dense gradients are kept then.
        dense: where the model's parameters lie.
    """

    def __init__(
        self,
        linears: Collection[QuantizedSlot],
        others: Mapping[str, Tensor],
        kinds: Collection[str],
        relative: bool,
        fixed_sets: Collection[str] = (),
        codes: bool = False,
        dense: DenseWeights = WHOLE,
    ) -> None:
        self._dense = dense
        self.leaves: dict[str, Leaf] = {}
        self._linears: dict[str, _Linear] = {}
        self._relative = relative
        for linear in linears:
            made = trainable(linear.weight, linear.slot.parameter.device)
            if made is not None:
                joined = self._join(linear, made, kinds, fixed_sets)
                joined.free_codes = codes and made.code_groups > 0
                self._linears[linear.name] = joined
        if codes and not self._coded():
            raise ConfigError(
                "finetune: the codes of this method's weights cannot be trained (CRVQ's and "
                "AQLM's can); set finetune=block or finetune=block_e2e"
            )
        self._others = dict(others) if "norms" in kinds else {}
        for name, parameter in self._others.items():
            self._add(f"norms/{name}", "norms", dense.whole(parameter))
        self.start = Snapshot(
            {name: linear.start for name, linear in self._linears.items() if linear.trained},
            {name: dense.whole(one).to(one.dtype, copy=True) for name, one in self._others.items()},
        )
        """What there was before."""

    def _join(
        self,
        linear: QuantizedSlot,
        weight: TrainableWeight,
        kinds: Collection[str],
        fixed_sets: Collection[str],
    ) -> _Linear:
        joined = _Linear(linear.slot, weight, linear.weight, {})
        for part, value in weight.parts.items():
            owner = weight.owner(part)
            if weight.kind(part) not in kinds or owner in fixed_sets:
                joined.fixed[part] = value
                continue
            leaf = f"{linear.name}/{part}" if owner is None else f"sets/{owner}/{part}"
            joined.leaves[part] = leaf
            if leaf not in self.leaves:
                self._add(leaf, weight.kind(part), value)
        return joined

    def _add(self, name: str, kind: str, value: Tensor) -> None:
        size = float(value.square().mean().sqrt()) if self._relative else 1.0
        unit = 2.0 ** round(math.log2(size)) if size > 0 and math.isfinite(size) else 1.0
        self.leaves[name] = Leaf(kind, value / unit, unit)

    @property
    def count(self) -> int:
        """Numbers that are free."""
        return sum(leaf.free.numel() for leaf in self.leaves.values())

    def values(self) -> Values:
        """As they are now."""
        return {name: leaf.value for name, leaf in self.leaves.items()}

    def stored(self) -> Values:
        """As they would come back from storage.

        Raises:
            ValueError: a value is not finite or exceeds its storage.
        """
        values = self.values()
        found: Values = {}
        for linear in self._linears.values():
            for part, leaf in linear.leaves.items():
                if leaf not in found:
                    found[leaf] = linear.weight.stored(part, values[leaf])
        for name in self._others:
            found[f"norms/{name}"] = _half(values[f"norms/{name}"]).float()
        return found

    def write(self, values: Values) -> None:
        """Put values into the model: decoded weights and norms."""
        with torch.no_grad():
            for linear in self._linears.values():
                if linear.trained:
                    self._dense.write(linear.slot, linear.weight.dense(linear.parts(values)))
            for name, parameter in self._others.items():
                self._dense.put(parameter, values[f"norms/{name}"])

    def snapshot(self, values: Values) -> Snapshot:
        """Return quantized weights with present codes and these values, and norms."""
        weights = {
            name: linear.weight.quantized(linear.parts(values))
            for name, linear in self._linears.items()
            if linear.trained
        }
        # 16 bits are what unquantized weights count as.
        others = {name: _half(values[f"norms/{name}"]) for name in self._others}
        return Snapshot(weights, others)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot into the model. Leaves and codes stay where they are."""
        with torch.no_grad():
            for name, weight in snapshot.weights.items():
                self._dense.write(self._linears[name].slot, weight.dequantize())
            for name, value in snapshot.others.items():
                self._dense.put(self._others[name], value)

    def coded_weights(self) -> dict[str, QuantizedWeight]:
        """Return linears with free codes: present codes, and other parts as at the start."""
        return {name: linear.weight.snapshot() for name, linear in self._coded().items()}

    def load_codes(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Take over the codes of `coded_weights`."""
        for name, linear in self._coded().items():
            linear.weight.load(weights[name])

    def changed_codes(self) -> float | None:
        """Return the part of groups whose codes differ from the start's; None: codes are fixed."""
        coded = self._coded().values()
        if not coded:
            return None
        changed = sum(linear.weight.changed_groups(linear.start) for linear in coded)
        return changed / sum(linear.weight.code_groups for linear in coded)

    def dense_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Decode linears with free codes, one after another: ``(out, in)``, in float32."""
        for name, linear in self._coded().items():
            yield name, linear.weight.dense(self._parts(linear))

    def take_dense_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Hand out sums of dense gradients by name of a linear with free codes, and forget them."""
        for name, linear in self._coded().items():
            gradient, linear.gradient = linear.gradient, None
            if gradient is not None:
                yield name, gradient

    def move_codes(
        self, name: str, wish: Tensor, importance: Importance, max_change: float, beam: int
    ) -> Tensor:
        """Change codes so that a linear moves as is wished; see `TrainableWeight.move_codes`.

        Args:
            name: of a linear with free codes.
            wish: change of the dense weight, ``(out, in)``.
            importance: weights of the distance.
            max_change: part of the groups that may change; one group always may.
            beam: candidates kept.

        Returns:
            The change there was, ``(out, in)``.
        """
        weight, parts = self._linears[name].weight, self._parts(self._linears[name])
        before = weight.dense(parts)
        limit = max(1, int(max_change * weight.code_groups))
        moved = weight.move_codes(parts, before + wish, importance, limit, beam)
        return weight.dense(parts) - before if moved else torch.zeros_like(before)

    def _coded(self) -> dict[str, _Linear]:
        return {name: linear for name, linear in self._linears.items() if linear.free_codes}

    def _parts(self, linear: _Linear) -> Parts:
        return linear.parts({leaf: self.leaves[leaf].value for leaf in linear.leaves.values()})

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Backward passes inside add to the leaves' ``free.grad``."""
        by_parameter: dict[Tensor, list[_Linear]] = {}
        for linear in self._linears.values():
            if linear.trained:
                by_parameter.setdefault(linear.slot.parameter, []).append(linear)
        others = {parameter: name for name, parameter in self._others.items()}

        def take(parameter: Tensor, gradient: Tensor) -> None:
            for linear in by_parameter.get(parameter, ()):
                self._take(linear, linear.slot.view(gradient).float())
            if parameter in others:
                self._add_gradient(f"norms/{others[parameter]}", gradient.float())

        with self._dense.gradients([*by_parameter, *others], take):
            yield

    @torch.no_grad()
    def _take(self, linear: _Linear, gradient: Tensor) -> None:
        if linear.free_codes:
            linear.gradient = gradient if linear.gradient is None else linear.gradient + gradient
        found = linear.weight.pullback(self._parts(linear), gradient)
        for part, leaf in linear.leaves.items():
            self._add_gradient(leaf, found[part])

    def _add_gradient(self, name: str, gradient: Tensor) -> None:
        leaf = self.leaves[name]
        scaled = gradient * leaf.unit
        leaf.free.grad = scaled if leaf.free.grad is None else leaf.free.grad + scaled


def nothing_to_train(kinds: Collection[str], how: str) -> str:
    """The message for weights of which nothing that was asked for is free."""
    return (
        f"finetune.train={list(kinds)}: the quantized weights of this method have none of these "
        f"that could be trained {how} (grids and binarized weights have scales only, GPTVQ's have "
        "codebooks only, and codebooks of the whole model are trained end to end); add scales or "
        "norms to finetune.train, or set finetune=none"
    )


def norm_parameters(module: nn.Module) -> dict[str, Tensor]:
    """A module's one-dimensional parameters by name: weights of norms, and biases."""
    return {name: one for name, one in module.named_parameters() if one.ndim == 1}


def _half(value: Tensor) -> Tensor:
    """16 bits: float16, or bfloat16 where that is too narrow."""
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value.bfloat16()
