"""What an exported folder holds: its `quantization_config`, and which tensors follow from it.

Every quantized linear layer is one uint8 tensor ``<name>.packed``: the stored fields of its format
(`QuantizedWeight.stored_fields`: scales, codes, codebooks, permutation) one after the other, in
declared order, without gaps. Codebooks that several layers share are one tensor per set,
``crvq_shared.set_<i>``. One tensor per layer keeps the file's own header small: at one bit per
weight, a header of a tensor per field would be a visible part of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from crvq.errors import CheckpointError
from crvq.weights.fields import Field, FormatError, Sizes
from crvq.weights.formats import FORMATS, unpack_weight
from crvq.weights.quantized import QuantizedWeight

FORMAT_VERSION = 1
METHOD = "crvq"
PACKED = "packed"
SHARED = "crvq_shared"
"""Module of the model that holds sets of shared codebooks while a folder is loaded."""
FloatDtype = Literal["float16", "bfloat16"]


class Layout(BaseModel):
    """The `quantization_config` of an exported folder."""

    model_config = ConfigDict(extra="forbid")

    quant_method: Literal["crvq"] = "crvq"
    format_version: int = FORMAT_VERSION
    linears: dict[str, dict[str, Any]]
    """Header of each quantized linear layer, by its name in the model."""
    unquantized_dtype: FloatDtype
    """Of the floating-point tensors that are not quantized."""
    digests: dict[str, str]
    """SHA-256 of each tensor (`crvq.models.digest.tensor_digest`)."""
    origin: dict[str, Any] = {}
    """Where the model came from, for the model card."""

    @classmethod
    def read(cls, values: object) -> Layout:
        """Check a ``quantization_config``.

        Raises:
            CheckpointError: it is another method's, of a newer version, or damaged.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError("config.json has no quantization_config: not a quantized model")
        if values.get("quant_method") != METHOD:
            raise CheckpointError(
                f"the model was quantized by {values.get('quant_method')!r:.60}, not by {METHOD}; "
                "load it with transformers' AutoModelForCausalLM.from_pretrained"
            )
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"the folder has format_version {version}; this version of crvq reads up to "
                f"{FORMAT_VERSION}: upgrade crvq"
            )
        try:
            layout = cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(f"{one!s:.80}" for one in first["loc"])
            raise CheckpointError(f"quantization_config: {place}: {first['msg']}") from None
        _ = layout.packed_bytes  # headers are checked here, before a tensor is read
        return layout

    @cached_property
    def _sizes(self) -> dict[str, Sizes]:
        sizes = {}
        for name, header in sorted(self.linears.items()):
            with _of(name):
                sizes[name] = _format(header).header_type.from_header(header)
        return sizes

    @cached_property
    def sets(self) -> dict[str, list[Field]]:
        """Fields of each set of shared tensors, sorted by name."""
        found: dict[str, dict[str, Field]] = {}
        for name, sizes in self._sizes.items():
            if sizes.shared_set is None:
                continue
            fields = found.setdefault(sizes.shared_set, {})
            for field in _format(self.linears[name]).stored_fields(sizes):
                if field.shared and fields.setdefault(field.name, field) != field:
                    raise CheckpointError(
                        f"quantization_config: {name}: {field.name} of {sizes.shared_set!r:.60} "
                        "has another shape than in another layer of that set"
                    )
        return {name: [found[name][one] for one in sorted(found[name])] for name in sorted(found)}

    @property
    def set_keys(self) -> dict[str, str]:
        """Tensor of each set, by the set's name; a set's name may hold what a tensor's may not."""
        return {name: f"{SHARED}.set_{index}" for index, name in enumerate(self.sets)}

    @cached_property
    def packed_bytes(self) -> dict[str, int]:
        """Bytes of every packed tensor, by its name."""
        found = {f"{name}.{PACKED}": _size(self.own_fields(name)) for name in self._sizes}
        return found | {self.set_keys[name]: _size(fields) for name, fields in self.sets.items()}

    def shape(self, name: str) -> tuple[int, int]:
        """``(out, in)`` of a layer."""
        return self._sizes[name].out_features, self._sizes[name].in_features

    def own_fields(self, name: str) -> list[Field]:
        """Fields in a layer's own tensor, in order."""
        with _of(name):
            fields = _format(self.linears[name]).stored_fields(self._sizes[name])
        shares = self._sizes[name].shared_set is not None
        return [field for field in fields if not (shares and field.shared)]

    def unpack(self, name: str, packed: Tensor, shared: Mapping[str, Tensor]) -> QuantizedWeight:
        """Read a layer's weight, checking that it is what its header declares.

        Args:
            name: of the layer.
            packed: its tensor.
            shared: fields of its set, from `unpack_set`; empty without one.

        Raises:
            CheckpointError: a code or a permutation out of range, or a number not finite.
        """
        with _of(name):
            tensors = _split(packed, self.own_fields(name))
            return unpack_weight(self.linears[name], tensors, shared, self.shape(name))

    def unpack_set(self, name: str, packed: Tensor) -> dict[str, Tensor]:
        """Return the shared tensors of a set."""
        with _of(name):
            return _split(packed, self.sets[name])

    def shared_set(self, name: str) -> str | None:
        """Name of the set that a layer's codebooks belong to."""
        return self._sizes[name].shared_set


def pack_weights(weights: Mapping[str, QuantizedWeight]) -> dict[str, Tensor]:
    """Return the packed tensors of an exported folder, on the CPU.

    Raises:
        CheckpointError: two layers disagree on codebooks that they are said to share.
    """
    layout = Layout(
        linears={name: weight.header() for name, weight in weights.items()},
        unquantized_dtype="float16",
        digests={},
    )
    tensors: dict[str, Tensor] = {}
    shared: dict[str, dict[str, Tensor]] = {name: {} for name in layout.sets}
    for name, weight in sorted(weights.items()):
        tensors[f"{name}.{PACKED}"] = _joined(weight.pack(), layout.own_fields(name))
        together = weight.shared()
        if together is None:
            continue
        for key, tensor in together[1].items():
            known = shared[together[0]].setdefault(key, tensor)
            if known is not tensor and not torch.equal(known, tensor):
                raise CheckpointError(f"{name}: {key} differs from that of {together[0]!r}")
    for name, fields in layout.sets.items():
        tensors[layout.set_keys[name]] = _joined(shared[name], fields)
    return tensors


class _of:  # noqa: N801 - reads as a phrase: with _of(name)
    """Put a layer's name before what is wrong with it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FormatError):
            raise CheckpointError(f"{self._name!a:.120}: {error}") from error


def _format(header: Mapping[str, Any]) -> type[QuantizedWeight]:
    name = header.get("format")
    if not isinstance(name, str) or name not in FORMATS:
        known = ", ".join(FORMATS)
        raise FormatError("format", f"{name!r:.60} is not known; this version reads {known}")
    return FORMATS.get(name)


def _size(fields: Iterable[Field]) -> int:
    return sum(field.stored_bytes for field in fields)


def _joined(tensors: Mapping[str, Tensor], fields: list[Field]) -> Tensor:
    parts = [tensors[field.name].detach().cpu().contiguous() for field in fields]
    return torch.cat([part.view(torch.uint8).flatten() for part in parts])


def _split(packed: Tensor, fields: list[Field]) -> dict[str, Tensor]:
    """Cut a packed tensor into its fields; each is a copy, since float16 must lie aligned."""
    if packed.dtype != torch.uint8 or packed.numel() != _size(fields):
        raise FormatError(
            PACKED, f"{packed.numel()} values of {packed.dtype}, not {_size(fields)} bytes"
        )
    tensors, start = {}, 0
    for field in fields:
        part = packed[start : start + field.stored_bytes].clone()
        tensors[field.name] = part.view(field.stored_dtype).view(field.stored_shape)
        start += field.stored_bytes
    return tensors
