"""Weights with a codebook for each patch: GPTVQ's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from crvq.vq.grouped_codebooks import PatchLayout, decode_patches, load_patches, store_patches
from crvq.vq.patch_columns import LARGEST_LOGARITHM, SCALE_BITS, block_scales
from crvq.weights.entropy import order0_bits
from crvq.weights.fields import Count, Field, FormatError, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import EntryGradients, PartKind, Parts, TrainableWeight, trainable

_CODEBOOKS = "codebooks"


class PatchSizes(Sizes):
    """The header of a `PatchWeight`."""

    padded_in_features: Count
    vector_size: Annotated[int, Limits(ge=1, le=1024)]
    columns: Count
    """Of a strip."""
    rows: Count
    """Of a band."""
    entries: Annotated[int, Limits(ge=1, le=2**24)]
    """Of each codebook."""
    scale_block: Count | None

    @model_validator(mode="after")
    def _consistent(self) -> PatchSizes:
        d = self.vector_size
        if self.padded_in_features != -(-self.in_features // d) * d:
            raise ValueError(
                f"padded_in_features={self.padded_in_features} for {self.in_features} columns and "
                f"vectors of {d}"
            )
        if self.columns % d or self.columns > self.padded_in_features:
            raise ValueError(f"columns={self.columns} of {self.padded_in_features}, vectors of {d}")
        if self.rows > self.out_features:
            raise ValueError(f"rows={self.rows} of {self.out_features}")
        if self.scale_block is not None:
            self.span(self.scale_block, "scale_block")
        return self

    @property
    def layout(self) -> PatchLayout:
        """Where patches lie."""
        return PatchLayout(
            self.out_features, self.padded_in_features, self.vector_size, self.columns, self.rows
        )

    @property
    def scales_per_row(self) -> int:
        """Each strip has its own scales, the last of a strip perhaps for fewer columns."""
        assert self.scale_block is not None
        whole, block = self.layout.strips - 1, self.scale_block
        last = self.padded_in_features - whole * self.columns
        return whole * -(-self.columns // block) + -(-last // block)


@dataclass
class PatchWeight(QuantizedWeight):
    """``Ŵ = s ⊙ C_patch[codes]``, in_features padded to whole vectors (and counted so)."""

    format: ClassVar[str] = "patch_vq"
    header_type: ClassVar[type[Sizes]] = PatchSizes

    in_features: int
    layout: PatchLayout
    codes: Tensor
    """``(out, padded in / d)``, int64."""
    entries: Tensor
    """int8, ``(strips * bands, entries, d)``."""
    steps: Tensor
    """Of each codebook, ``(strips * bands,)``, float32 that float16 holds."""
    scale_block: int | None = None
    scale_codes: Tensor | None = None
    """``(out, blocks)``, int64, all strips side by side; None: no scales."""
    scale_spans: Tensor | None = None
    """``(strips, 2)``, float32 that float16 holds."""

    def __post_init__(self) -> None:
        self.out_features = self.layout.out_features

    def dequantize(self) -> Tensor:
        """Look up each vector in its patch's codebook, scale, and drop padded columns."""
        index = self.layout.codebook_index(self.codes.device)
        decoded = decode_patches(load_patches(self.entries, self.steps), self.codes, index)
        if self.scale_codes is not None:
            decoded = decoded * self.scales()
        return decoded[:, : self.in_features].contiguous()

    def scales(self) -> Tensor:
        """Return the block scale of each weight, ``(out, padded in)``."""
        assert self.scale_codes is not None
        assert self.scale_spans is not None
        assert self.scale_block is not None
        layout, parts = self.layout, []
        codes = self.scale_codes.split(-(-layout.columns // self.scale_block), 1)
        for strip, span in enumerate(self.scale_spans):
            columns = min(layout.columns, layout.in_features - strip * layout.columns)
            parts.append(block_scales(codes[strip], span, self.scale_block, columns))
        return torch.cat(parts, 1)

    @classmethod
    def stored_fields(cls, sizes: PatchSizes) -> list[Field]:
        """Codes; 8-bit entries and a float16 step per codebook; 4-bit scales and their spans."""
        layout, d = sizes.layout, sizes.vector_size
        number, rows = layout.strips * layout.bands, sizes.out_features
        width, shape = index_bits(sizes.entries), (rows, layout.in_features // d)
        fields = [
            Field("codes", "codes", shape, width, below=sizes.entries),
            Field("entries", "codebooks", (number, sizes.entries, d), dtype=torch.int8),
            Field("steps", "codebooks", (number,)),
        ]
        if sizes.scale_block is not None:
            fields.append(Field("scales", "scales", (rows, sizes.scales_per_row), SCALE_BITS))
            fields.append(Field("scale_spans", "scales", (layout.strips, 2)))
        return fields

    def sizes(self) -> PatchSizes:
        """Shapes of patches, codebooks and scales."""
        layout = self.layout
        return PatchSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            padded_in_features=layout.in_features,
            vector_size=layout.width,
            columns=layout.columns,
            rows=layout.rows,
            entries=self.entries.shape[1],
            scale_block=self.scale_block,
        )

    def values(self) -> dict[str, Tensor]:
        """Codes, codebooks and scales."""
        values = {"codes": self.codes, "entries": self.entries, "steps": self.steps}
        if self.scale_codes is not None and self.scale_spans is not None:
            values |= {"scales": self.scale_codes, "scale_spans": self.scale_spans}
        return values

    @classmethod
    def from_values(cls, sizes: PatchSizes, values: Mapping[str, Tensor]) -> PatchWeight:
        """Return the weight; block scales must be numbers that float32 holds."""
        spans = values["scale_spans"].float() if sizes.scale_block is not None else None
        if spans is not None:
            highest = spans[:, 0] + (2**SCALE_BITS - 1) * spans[:, 1].abs()
            if float(highest.max()) > LARGEST_LOGARITHM:
                raise FormatError("scale_spans", f"scales up to 2^{float(highest.max()):.0f}")
        return cls(
            in_features=sizes.in_features,
            layout=sizes.layout,
            codes=values["codes"],
            entries=values["entries"],
            steps=values["steps"].float(),
            scale_block=sizes.scale_block,
            scale_codes=values.get("scales"),
            scale_spans=spans,
        )

    @classmethod
    def upgraded(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the number of entries from the tensor, where version 1 leaves it."""
        if "entries" in header:
            return dict(header)
        entries = tensors.get("entries")
        if entries is None or entries.ndim != 3:
            raise FormatError("entries", "the tensor is missing or has not three dimensions")
        return {**header, "entries": entries.shape[1]}

    def entropy_bits(self) -> float:
        """Of each codebook's codes, each with its own frequencies."""
        number, entries = self.entries.shape[:2]
        slots = self.layout.codebook_index(self.codes.device) * entries + self.codes
        counts = torch.bincount(slots.flatten(), minlength=number * entries)
        return order0_bits(counts.view(number, entries))


@trainable.register
def _(weight: PatchWeight, device: torch.device) -> TrainableWeight:
    return TrainablePatches(weight, device)


class TrainablePatches(TrainableWeight[PatchWeight]):
    """``Ŵ = s ⊙ C_patch[codes]`` with C free (arXiv 2402.15319, section 3.3); s stays as it is."""

    def load(self, weight: PatchWeight) -> None:
        """Sort out where each entry of each patch is used."""
        device = self.device
        self._weight = weight
        self._codes, self._index = weight.codes.to(device), weight.layout.codebook_index(device)
        number, entries, _ = weight.entries.shape
        slots = (self._index * entries + self._codes).flatten()
        self._gradients = EntryGradients(slots, number * entries)
        self._scales = None if weight.scale_codes is None else weight.scales().to(device)
        self.parts = {_CODEBOOKS: load_patches(weight.entries, weight.steps).to(device)}

    def kind(self, name: str) -> PartKind:
        """Codebooks only."""
        return "codebooks"

    def dense(self, parts: Parts) -> Tensor:
        """Decode with these codebooks."""
        decoded = decode_patches(parts[_CODEBOOKS], self._codes, self._index)
        if self._scales is not None:
            decoded = decoded * self._scales
        return decoded[:, : self._weight.in_features].contiguous()

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """Return one sum over the uses of each entry of each patch."""
        codebooks = parts[_CODEBOOKS]
        padding = self._weight.layout.in_features - gradient.shape[1]
        gradient = functional.pad(gradient, (0, padding))
        if self._scales is not None:
            gradient = gradient * self._scales
        vectors = gradient.reshape(-1, codebooks.shape[2])
        return {_CODEBOOKS: self._gradients(vectors).view_as(codebooks)}

    def stored(self, name: str, value: Tensor) -> Tensor:
        """8-bit entries, one float16 step per codebook."""
        return load_patches(*store_patches(value))

    def quantized(self, parts: Parts) -> PatchWeight:
        """Same codes and scales."""
        entries, steps = store_patches(parts[_CODEBOOKS])
        device = self._weight.entries.device
        return replace(self._weight, entries=entries.to(device), steps=steps.to(device))
