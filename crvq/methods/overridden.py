"""Other parameters for some linear layers of a model: a method with overrides by name pattern."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.errors import ConfigError
from crvq.methods.method import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.methods.registry import create_method
from crvq.weights.quantized import QuantizedWeight

Overrides = Mapping[str, Mapping[str, Any]]
"""Changed parameters by pattern; of patterns that match one layer, later ones win."""


def params_for(name: str, base: StrictModel, overrides: Overrides) -> StrictModel:
    """Return the parameters of one linear layer.

    Args:
        name: full name of the layer, ``model.layers.0.mlp.down_proj``.
        base: the method's parameters.
        overrides: checked before (`check_patterns`).
    """
    changes: dict[str, Any] = {}
    for pattern, values in overrides.items():
        if fnmatchcase(name, pattern):
            changes |= values
    return type(base).model_validate({**base.model_dump(), **changes}) if changes else base


def check_patterns(overrides: Overrides, names: Sequence[str]) -> None:
    """Refuse a pattern that matches no linear layer.

    Args:
        overrides: asked for.
        names: full names of all linear layers that are quantized.

    Raises:
        ConfigError: names the pattern, and layers whose names are near it.
    """
    for pattern in overrides:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        plain = pattern.replace("*", "").strip(".")
        kinds = sorted({name.split(".", 3)[-1] for name in names})
        near = get_close_matches(plain, [*names, *kinds], n=3, cutoff=0.5) or names[:3]
        raise ConfigError(
            f"overrides: the pattern {pattern} matches none of the {len(names)} linear layers; * "
            f"stands for anything, and names are like {', '.join(near)}"
        )


class OverriddenMethod(Method[Any]):
    """Hands each linear layer to the method with its own parameters.

    Args:
        name: of the method.
        params: of layers that no pattern matches.
        overrides: by pattern.
        seed: of the run.
    """

    def __init__(self, name: str, params: StrictModel, overrides: Overrides, seed: int) -> None:
        super().__init__(params, seed)
        self._overrides = overrides
        self._method = name
        self._base = create_method(name, params, seed)
        self._methods: dict[str, Method[Any]] = {_key(params): self._base}
        for pattern, values in overrides.items():
            try:
                type(params).model_validate({**params.model_dump(), **values})
            except ValidationError as error:
                fault = error.errors()[0]
                place = ".".join(map(str, fault["loc"]))
                raise ConfigError(f"overrides: {pattern}: {place}: {fault['msg']}") from error
        if self._base.prepare_blocks(1):
            raise ConfigError(
                f"overrides: {name} fits codebooks for the whole model here, and layers with "
                "parameters of their own cannot share them; set crvq.codebook_scope=linear or block"
            )

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the layers of each set of parameters together."""
        groups: dict[str, list[LinearInput]] = {}
        for linear in linears:
            params = params_for(linear.name, self.params, self._overrides)
            key = _key(params)
            if key not in self._methods:
                self._methods[key] = create_method(self._method, params, self.seed)
            groups.setdefault(key, []).append(linear)
        for number, (key, group) in enumerate(groups.items()):
            for done in self._methods[key].quantize_block(block, group):
                yield replace(done, weight=own_set(done.weight, number)) if number else done

    @property
    def divides_blocks(self) -> bool:
        """As the method."""
        return self._base.divides_blocks

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Show the block to all."""
        for method in self._methods.values():
            method.on_block_stored(weights)

    def shared_tensors(self) -> dict[str, Tensor]:
        """Return none: nothing is shared between blocks."""
        return {}

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Of layers without overrides."""
        return self._base.effective(shapes)


def own_set(weight: QuantizedWeight, number: int) -> QuantizedWeight:
    """Return a weight whose codebooks, if it shares them, are of a set of its own group."""
    shared: Any = weight
    name = getattr(weight, "codebook_set", None)
    return weight if name is None else replace(shared, codebook_set=f"{name}-{number}")


def _key(params: StrictModel) -> str:
    return json.dumps(params.model_dump(mode="json"), sort_keys=True)
