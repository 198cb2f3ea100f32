"""Weights as sums of codebook entries: CRVQ's and AQLM's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from crvq.vq.additive_code import AdditiveCode
from crvq.vq.nearest_codes import nearest_codes
from crvq.vq.scale_solve import storable_scales
from crvq.vq.storage import CodebookDtype, load_codebook, round_codebook, store_codebook
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Field, FormatError, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import (
    EntryGradients,
    Importance,
    PartKind,
    Parts,
    TrainableWeight,
    trainable,
)

_SCALES = "scales"
_SHORTLIST = 8
"""Groups searched for each that may change its codes."""


class AdditiveSizes(Sizes):
    """The header of an `AdditiveWeight`."""

    group_size: Annotated[int, Limits(ge=1, le=1024)]
    """d."""
    groups: Annotated[list[Annotated[int, Limits(ge=0, le=2**31 - 1)]], Limits(min_length=1)]
    """Groups that each codebook covers, the first all of them."""
    entries: list[Annotated[int, Limits(ge=1, le=2**24)]]
    """Of each codebook."""
    codebook_dtype: Literal["float16", "int8"]
    reordered: Annotated[int, Limits(ge=0)]
    """Leading positions of the order that are stored."""
    codebook_set: str | None
    codebook_share: Annotated[float, Limits(ge=0, le=1, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _consistent(self) -> AdditiveSizes:
        if self.positions != -(-self.in_features // self.group_size) * self.group_size:
            raise ValueError(
                f"{self.groups[0]} groups of {self.group_size} are not {self.in_features} columns "
                "in whole groups"
            )
        if len(self.entries) != len(self.groups) or max(self.groups) > self.groups[0]:
            raise ValueError("every codebook has entries, and none covers more than the first")
        if self.reordered > self.positions:
            raise ValueError(f"reordered={self.reordered} of {self.positions} positions")
        return self

    @property
    def positions(self) -> int:
        """Columns with padding: whole groups."""
        return self.groups[0] * self.group_size

    @property
    def share(self) -> float:
        """Of the codebooks' bits."""
        return self.codebook_share

    @property
    def shared_set(self) -> str | None:
        """The codebooks' set."""
        return self.codebook_set


@dataclass
class AdditiveWeight(QuantizedWeight):
    """``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])``, codebook k covering the first ``groups_k`` groups.

    (arXiv 2412.09282, section 3.) in_features that d does not divide are padded; the padding's
    codes are stored and counted.
    """

    format: ClassVar[str] = "additive"
    header_type: ClassVar[type[Sizes]] = AdditiveSizes

    out_features: int
    in_features: int
    code: AdditiveCode
    """Codes and scales; scales hold float16 values."""
    codebooks: list[dict[str, Tensor]]
    """Stored parts of each codebook; see `crvq.vq.storage`."""
    order: Tensor
    """π, ``(groups * d,)``: coded position p holds channel π[p]."""
    reordered: int
    """How many leading positions of π are stored: 0 when the order is the natural one, all for
    a full permutation, or only the critical channels when the others keep their natural order."""
    codebook_set: str | None = None
    """Name of the set when several weights share these codebooks."""
    codebook_share: float = 1.0
    """Part of the codebooks' bits that this weight answers for."""

    @property
    def group_size(self) -> int:
        """d."""
        return self.codebooks[0]["entries"].shape[1]

    def dequantize(self) -> Tensor:
        """Sum entries, scale rows, and put channels back into their natural order."""
        coded = self.code.dequantize([load_codebook(parts) for parts in self.codebooks])
        natural = torch.empty_like(coded)
        natural[:, self.order] = coded
        return natural[:, : self.in_features].contiguous()

    @classmethod
    def stored_fields(cls, sizes: AdditiveSizes) -> list[Field]:
        """Codes, codebooks (shared within a set), float16 scales and the permutation."""
        fields = [Field("scales", "scales", (sizes.out_features,))]
        for k, (groups, entries) in enumerate(zip(sizes.groups, sizes.entries, strict=True)):
            codes, width = (sizes.out_features, groups), index_bits(entries)
            fields.append(Field(f"codes.{k}", "codes", codes, width, below=entries))
            book, shape = f"codebooks.{k}", (entries, sizes.group_size)
            dtype = torch.int8 if sizes.codebook_dtype == "int8" else torch.float16
            fields.append(Field(f"{book}.entries", "codebooks", shape, dtype=dtype, shared=True))
            if sizes.codebook_dtype == "int8":
                fields.append(Field(f"{book}.steps", "codebooks", shape[1:], shared=True))
        if sizes.reordered:
            stored, limit = (sizes.reordered,), sizes.positions
            fields.append(
                Field("order", "permutation", stored, index_bits(limit), below=limit, distinct=True)
            )
        return fields

    def sizes(self) -> AdditiveSizes:
        """Shapes, and how codebooks are stored and shared."""
        return AdditiveSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            group_size=self.group_size,
            groups=self.code.coverage(),
            entries=[len(parts["entries"]) for parts in self.codebooks],
            codebook_dtype="int8" if "steps" in self.codebooks[0] else "float16",
            reordered=self.reordered,
            codebook_set=self.codebook_set,
            codebook_share=self.codebook_share,
        )

    def values(self) -> dict[str, Tensor]:
        """Codes, scales, the order's stored positions, and the codebooks' parts."""
        return {
            "scales": self.code.scales,
            "order": self.order[: self.reordered],
            **{f"codes.{k}": codes for k, codes in enumerate(self.code.codes)},
            **{
                f"codebooks.{k}.{name}": part
                for k, parts in enumerate(self.codebooks)
                for name, part in parts.items()
            },
        }

    @classmethod
    def from_values(cls, sizes: AdditiveSizes, values: Mapping[str, Tensor]) -> AdditiveWeight:
        """Complete the order; channels that are not stored follow in their natural order."""
        number = range(len(sizes.groups))
        names = ("entries", "steps") if sizes.codebook_dtype == "int8" else ("entries",)
        stored = values.get("order", torch.empty(0, dtype=torch.int64))
        return cls(
            out_features=sizes.out_features,
            in_features=sizes.in_features,
            code=AdditiveCode([values[f"codes.{k}"] for k in number], values["scales"].float()),
            codebooks=[{name: values[f"codebooks.{k}.{name}"] for name in names} for k in number],
            order=_complete_order(stored, sizes.positions),
            reordered=sizes.reordered,
            codebook_set=sizes.codebook_set,
            codebook_share=float(sizes.codebook_share),
        )

    @classmethod
    def upgraded(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read entries, d and dtype from the codebooks, where version 1 leaves them."""
        if "code_bits" not in header:
            return dict(header)
        rest = {k: v for k, v in header.items() if k not in ("code_bits", "positions")}
        books: list[Tensor] = []
        while (book := tensors.get(f"codebooks.{len(books)}.entries")) is not None:
            if book.ndim != 2:
                raise FormatError(f"codebooks.{len(books)}.entries", "is not a matrix")
            books.append(book)
        if not books:
            raise FormatError("codebooks.0.entries", "the tensor is missing")
        entries = [len(book) for book in books]
        if header["code_bits"] != [index_bits(size) for size in entries]:
            raise FormatError("code_bits", f"{header['code_bits']!r:.60} for {entries} entries")
        dtype = "int8" if books[0].dtype == torch.int8 else "float16"
        return {
            **rest,
            "group_size": books[0].shape[1],
            "entries": entries,
            "codebook_dtype": dtype,
        }

    def entropy_bits(self) -> float:
        """Of each codebook's codes."""
        return sum(code_entropy_bits(codes) for codes in self.code.codes)


def _complete_order(stored: Tensor, positions: int) -> Tensor:
    """Return stored leading positions, then all other channels in their natural order."""
    rest = torch.ones(positions, dtype=torch.bool)
    rest[stored] = False
    return torch.cat([stored, rest.nonzero()[:, 0]])


@trainable.register
def _(weight: AdditiveWeight, device: torch.device) -> TrainableWeight:
    return TrainableAdditive(weight, device)


class TrainableAdditive(TrainableWeight[AdditiveWeight]):
    """``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])`` with C and s free (arXiv 2412.09282, section 3)."""

    def load(self, weight: AdditiveWeight) -> None:
        """Sort out where each codebook entry is used."""
        device = self.device
        self._weight = weight
        self._codes = [codes.to(device).int() for codes in weight.code.codes]
        self._moved = False
        order = weight.order.to(device)
        self._order, self._places = order, order.argsort()[: weight.in_features]
        self._sort_codes()
        self.parts = {
            f"codebooks.{k}": load_codebook(parts).to(device)
            for k, parts in enumerate(weight.codebooks)
        }
        self.parts[_SCALES] = weight.code.scales.to(device)

    def _sort_codes(self) -> None:
        self._gradients = [
            EntryGradients(codes.flatten().long(), len(parts["entries"]))
            for codes, parts in zip(self._codes, self._weight.codebooks, strict=True)
        ]

    def kind(self, name: str) -> PartKind:
        """Codebooks and scales."""
        return "scales" if name == _SCALES else "codebooks"

    def owner(self, name: str) -> str | None:
        """Codebooks may belong to a set; scales never do."""
        return None if name == _SCALES else self._weight.codebook_set

    def dense(self, parts: Parts) -> Tensor:
        """Decode with these codebooks and scales."""
        coded = self._code(parts).decode(self._codebooks(parts)) * parts[_SCALES][:, None]
        return coded.index_select(1, self._places)

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """Return one sum over the uses of each entry; a row sum for each scale."""
        padding = len(self._order) - gradient.shape[1]
        coded = functional.pad(gradient, (0, padding)).index_select(1, self._order)
        decoded = self._code(parts).decode(self._codebooks(parts))
        found = {_SCALES: (coded * decoded).sum(1)}
        vectors = (coded * parts[_SCALES][:, None]).unflatten(1, (-1, self._weight.group_size))
        for k, codes in enumerate(self._codes):
            covered = vectors[:, : codes.shape[1]].flatten(0, 1)
            found[f"codebooks.{k}"] = self._gradients[k](covered)
        return found

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Codebooks as float16 or int8, scales as float16."""
        if name != _SCALES:
            return round_codebook(value, self._dtype(int(name.rpartition(".")[2])))
        return storable_scales(value)

    def quantized(self, parts: Parts) -> AdditiveWeight:
        """Same codes and order."""
        weight = self._weight
        device = weight.code.scales.device
        scales = self.stored(_SCALES, parts[_SCALES]).to(device)
        codes = weight.code.codes
        if self._moved:
            codes = [one.long().to(device) for one in self._codes]
        codebooks = [
            {
                name: part.to(device)
                for name, part in store_codebook(parts[f"codebooks.{k}"], self._dtype(k)).items()
            }
            for k in range(len(weight.codebooks))
        ]
        return replace(weight, code=AdditiveCode(codes, scales), codebooks=codebooks)

    @property
    def code_groups(self) -> int:
        """All rows' groups."""
        return self._codes[0].numel()

    def changed_groups(self, weight: AdditiveWeight) -> int:
        """A group differs if any of its codes does."""
        differs = torch.zeros_like(self._codes[0], dtype=torch.bool)
        for ours, theirs in zip(self._codes, weight.code.codes, strict=True):
            differs[:, : ours.shape[1]] |= ours != theirs.to(ours.device)
        return int(differs.sum())

    def move_codes(
        self, parts: Parts, target: Tensor, importance: Importance, limit: int, beam: int
    ) -> int:
        """Search the groups that are farthest from the target (arXiv 2405.14852, section 3)."""
        scales, padding = parts[_SCALES], len(self._order) - target.shape[1]
        # Where a scale is zero no code matters: such a row's weight below is zero too.
        divisors = torch.where(scales == 0, 1.0, scales)
        coded = functional.pad(target / divisors[:, None], (0, padding))[:, self._order]
        vectors = coded.unflatten(1, (-1, self._weight.group_size))
        # Padding has no importance: it is cut off again.
        metric = functional.pad(importance[1], (0, padding))[self._order].view(vectors.shape[1:])
        row_weights = importance[0] * scales.square()
        present = self._code(parts).decode(self._codebooks(parts)).view_as(vectors)
        # No group can gain more than its distance now, so few have to be searched.
        distances = ((vectors - present).square() * metric).sum(2) * row_weights[:, None]
        places = distances.flatten().topk(min(_SHORTLIST * limit, distances.numel())).indices
        gains = distances.new_zeros(len(places))
        found = [codes.clone() for codes in self._codes]
        rows, groups = places // len(metric), places % len(metric)
        for first, last in self._spans():
            here = ((groups >= first) & (groups < last)).nonzero()[:, 0]
            covering = [k for k, codes in enumerate(found) if first < codes.shape[1]]
            r, g = rows[here], groups[here]
            chosen, gain = nearest_codes(
                vectors[r, g],
                metric[g],
                torch.stack([found[k][r, g] for k in covering], 1).long(),
                [self._codebooks(parts)[k] for k in covering],
                beam,
            )
            gains[here] = gain * row_weights[r]
            for place, k in enumerate(covering):
                found[k][r, g] = chosen[:, place].int()
        best = gains.topk(min(limit, len(gains)))
        moved = best.indices[best.values > 0]
        self._take_codes(found, rows[moved], groups[moved])
        return len(moved)

    def _take_codes(self, found: list[Tensor], rows: Tensor, groups: Tensor) -> None:
        """Take over codes of some groups; tensors that a snapshot holds stay as they are."""
        if not len(rows):
            return
        for k, codes in enumerate(self._codes):
            covered = groups < codes.shape[1]
            place = rows[covered], groups[covered]
            self._codes[k] = codes.index_put(place, found[k][place])
        self._moved = True
        self._sort_codes()

    def _spans(self) -> list[tuple[int, int]]:
        """Ranges of groups that the same codebooks cover."""
        ends = sorted({0, *(codes.shape[1] for codes in self._codes)})
        return list(pairwise(ends))

    def _dtype(self, k: int) -> CodebookDtype:
        return "int8" if "steps" in self._weight.codebooks[k] else "float16"

    def _code(self, parts: Parts) -> AdditiveCode:
        return AdditiveCode(self._codes, parts[_SCALES])

    def _codebooks(self, parts: Parts) -> list[Tensor]:
        return [parts[f"codebooks.{k}"] for k in range(len(self._codes))]
