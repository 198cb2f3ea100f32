"""Weights coded as vectors along the output dimension: VPTQ's quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Limits
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from crvq.vq.output_vectors import from_output_vectors
from crvq.weights.entropy import code_entropy_bits
from crvq.weights.fields import Field, FormatError, Sizes, index_bits
from crvq.weights.quantized import QuantizedWeight
from crvq.weights.trainable import PartKind, TrainableNumbers, TrainableWeight, trainable

Entries = Annotated[int, Limits(ge=0, le=2**24)]
VectorSize = Annotated[int, Limits(ge=1, le=1024)]


class ColumnVqSizes(Sizes):
    """The header of a `ColumnVqWeight`."""

    vector_size: VectorSize
    entries: Entries
    """Of the main codebook; 0 where every column is an outlier."""
    residual_entries: Entries
    """Of the residual codebook; 0: there is none."""
    outliers: Annotated[int, Limits(ge=0)]
    """Columns with a codebook of their own."""
    outlier_vector_size: VectorSize
    outlier_entries: Entries

    @model_validator(mode="after")
    def _consistent(self) -> ColumnVqSizes:
        if self.outliers > self.in_features:
            raise ValueError(f"outliers={self.outliers} of {self.in_features} columns")
        if (self.outliers > 0) != (self.outlier_entries > 0):
            raise ValueError(f"outlier_entries={self.outlier_entries} for {self.outliers} outliers")
        if (self.outliers < self.in_features) != (self.entries > 0):
            raise ValueError(f"entries={self.entries} for {self.in_features} columns")
        if self.residual_entries and not self.entries:
            raise ValueError(f"residual_entries={self.residual_entries} without a main codebook")
        return self


@dataclass
class ColumnVqWeight(QuantizedWeight):
    """``Ŵ[iv:(i+1)v, j] = C[codes[i, j]] + R[residual[i, j]]`` (VPTQ, arXiv 2409.17066).

    Outlier columns have vectors, codes and a codebook of their own, and no residual. Codes are
    stored in natural column order, so that no permutation is needed; a bitmap marks outliers.
    """

    format: ClassVar[str] = "column_vq"
    header_type: ClassVar[type[Sizes]] = ColumnVqSizes

    out_features: int
    outlier: Tensor
    """Outlier columns, ``(in,)``, bool."""
    codes: Tensor
    """``(ceil(out / v), columns that are no outliers)``, int64."""
    codebook: Tensor
    """``(entries, v)``, float32 that float16 holds."""
    residual_codes: Tensor | None = None
    residual_codebook: Tensor | None = None
    outlier_codes: Tensor | None = None
    """``(ceil(out / v of outliers), outliers)``, int64."""
    outlier_codebook: Tensor | None = None

    def __post_init__(self) -> None:
        self.in_features = len(self.outlier)

    def dequantize(self) -> Tensor:
        """Look up vectors, add residuals, and put outlier columns in their places."""
        vectors = functional.embedding(self.codes, self.codebook)
        if self.residual_codes is not None and self.residual_codebook is not None:
            vectors = vectors + functional.embedding(self.residual_codes, self.residual_codebook)
        plain = from_output_vectors(vectors, self.out_features)
        if self.outlier_codes is None or self.outlier_codebook is None:
            return plain.contiguous()
        special = from_output_vectors(
            functional.embedding(self.outlier_codes, self.outlier_codebook), self.out_features
        )
        # Outliers follow the others in `both`; `places` is where each natural column is there.
        both = torch.cat([plain, special], 1)
        columns = torch.cat([(~self.outlier).nonzero()[:, 0], self.outlier.nonzero()[:, 0]])
        return both.index_select(1, columns.argsort())

    @classmethod
    def stored_fields(cls, sizes: ColumnVqSizes) -> list[Field]:
        """Codes, float16 codebooks, and the bitmap of outlier columns."""
        rows, v = sizes.out_features, sizes.vector_size
        main = sizes.in_features - sizes.outliers
        shape = -(-rows // v), main
        fields = []
        if sizes.entries:
            fields += _coded("codes", "codebook", shape, sizes.entries, v)
        if sizes.residual_entries:
            name = "residual_codebook"
            fields += _coded("residual_codes", name, shape, sizes.residual_entries, v)
        if sizes.outliers:
            v = sizes.outlier_vector_size
            shape = -(-rows // v), sizes.outliers
            fields += _coded("outlier_codes", "outlier_codebook", shape, sizes.outlier_entries, v)
            fields.append(Field("outlier", "other", (sizes.in_features,), 1))
        return fields

    def sizes(self) -> ColumnVqSizes:
        """Shape, vector sizes, and entries of each codebook."""
        residual, special = self.residual_codebook, self.outlier_codebook
        return ColumnVqSizes(
            out_features=self.out_features,
            in_features=self.in_features,
            vector_size=self.codebook.shape[1],
            entries=len(self.codebook),
            residual_entries=0 if residual is None else len(residual),
            outliers=int(self.outlier.sum()),
            outlier_vector_size=1 if special is None else special.shape[1],
            outlier_entries=0 if special is None else len(special),
        )

    def values(self) -> dict[str, Tensor]:
        """Codes, codebooks and the bitmap."""
        values = {"outlier": self.outlier, "codes": self.codes, "codebook": self.codebook}
        for name in ("residual_codes", "residual_codebook", "outlier_codes", "outlier_codebook"):
            value = getattr(self, name)
            if value is not None:
                values[name] = value
        return values

    @classmethod
    def from_values(cls, sizes: ColumnVqSizes, values: Mapping[str, Tensor]) -> ColumnVqWeight:
        """Return the weight.

        Raises:
            FormatError: the bitmap does not mark as many columns as the header says.
        """
        outlier = torch.zeros(sizes.in_features, dtype=torch.bool)
        if sizes.outliers:
            outlier = values["outlier"].bool()
        if int(outlier.sum()) != sizes.outliers:
            marked = int(outlier.sum())
            raise FormatError("outlier", f"marks {marked} columns, header: {sizes.outliers}")
        empty = torch.zeros(-(-sizes.out_features // sizes.vector_size), 0, dtype=torch.int64)
        books = {name: value.float() for name, value in values.items() if "codebook" in name}
        return cls(
            out_features=sizes.out_features,
            outlier=outlier,
            codes=values.get("codes", empty),
            codebook=books.get("codebook", torch.zeros(0, sizes.vector_size)),
            residual_codes=values.get("residual_codes"),
            residual_codebook=books.get("residual_codebook"),
            outlier_codes=values.get("outlier_codes"),
            outlier_codebook=books.get("outlier_codebook"),
        )

    def entropy_bits(self) -> float:
        """Of each codebook's codes, a source each."""
        sources = (self.codes, self.residual_codes, self.outlier_codes)
        return sum(code_entropy_bits(codes) for codes in sources if codes is not None)

    def bits_as_published(self) -> float:
        """Index bits alone (section 3 and the authors' README): no codebooks, no bitmap."""
        return self.bits().codes


def _coded(
    codes: str, codebook: str, shape: tuple[int, int], entries: int, size: int
) -> list[Field]:
    """Return the two fields of one codebook."""
    return [
        Field(codes, "codes", shape, index_bits(entries), below=entries),
        Field(codebook, "codebooks", (entries, size)),
    ]


@trainable.register
def _(weight: ColumnVqWeight, device: torch.device) -> TrainableWeight:
    return TrainableColumnVq(weight, device)


class TrainableColumnVq(TrainableNumbers[ColumnVqWeight]):
    """All codebooks are free; codes stay as they are."""

    numbers = ("codebook", "residual_codebook", "outlier_codebook")

    def kind(self, name: str) -> PartKind:
        """All are codebooks."""
        return "codebooks"
