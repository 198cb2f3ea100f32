"""What methods with additive codes (CRVQ, AQLM) share: parameters, the stored weight, its bits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.method import LinearInput, LinearShape
from crvq.vq.alternate import AlternationSettings, storable_scales
from crvq.vq.codebook_storage import CodebookDtype, store_codebook
from crvq.vq.coded_linear import CodedLinear
from crvq.weights.additive import AdditiveSizes, AdditiveWeight
from crvq.weights.bits import BitCount


class AdditiveParams(StrictModel):
    """How vectors are coded, and how hard codes and codebooks are searched."""

    group_size: int = Field(8, ge=1, le=64, description="d: weights that one code stands for")
    codebook_bits: int = Field(8, ge=1, le=16, description="index bits of a codebook")
    codebook_dtype: CodebookDtype = Field("float16", description="how codebooks are stored")
    search: Literal["descent", "feedback_start", "feedback"] = Field(
        "feedback_start", description="error-feedback code search never, first, or every round"
    )
    beam: int = Field(1, ge=1, le=64, description="partial codes kept by the feedback search")
    max_rounds: int = Field(8, ge=0, description="rounds of the alternation at most")
    relative_gain: float = Field(0.01, ge=0, lt=1, description="stop below this gain a round")
    codebook_steps: int = Field(4, ge=1, description="conjugate-gradient steps a round")
    kmeans_iterations: int = Field(8, ge=0)
    kmeans_sample: int = Field(32768, ge=1, description="sub-vectors that k-means looks at")
    damping: float = Field(
        0.01, ge=0, le=1, description="of H's inverse, relative to H's mean diagonal"
    )

    def alternation(self, train_codebooks: bool = True) -> AlternationSettings:
        """The alternation that these parameters ask for."""
        return AlternationSettings(
            max_rounds=self.max_rounds,
            relative_gain=self.relative_gain,
            codebook_steps=self.codebook_steps,
            beam=self.beam,
            search=self.search,
            codebook_dtype=self.codebook_dtype,
            train_codebooks=train_codebooks,
        )


def additive_weight(
    source: LinearInput,
    linear: CodedLinear,
    codebooks: list[Tensor],
    dtype: CodebookDtype,
    stored_positions: int,
    codebook_set: str | None = None,
    share: float = 1.0,
) -> AdditiveWeight:
    """The stored weight of a fitted linear.

    Args:
        source: the linear as it was given, without padding.
        linear: its codes and scales; scales are rounded to float16 in place.
        codebooks: float32, as they come back from storage.
        dtype: of stored codebooks.
        stored_positions: leading positions of the order that are stored.
        codebook_set: name of the set, if several linears share the codebooks.
        share: part of the codebooks' bits that this linear answers for.
    """
    linear.code.scales = storable_scales(linear.code.scales)
    return AdditiveWeight(
        out_features=source.weight.shape[0],
        in_features=source.weight.shape[1],
        code=linear.code,
        codebooks=[store_codebook(codebook, dtype) for codebook in codebooks],
        order=linear.order,
        reordered=stored_positions,
        codebook_set=codebook_set,
        codebook_share=share,
    )


def small_codebook_notes(codebooks: list[Tensor], entries: list[int]) -> list[str]:
    """Which codebooks came out smaller than asked for, or were left out.

    Args:
        codebooks: as fitted.
        entries: wanted sizes.
    """
    notes = [
        f"codebook {k} has {len(codebook)} entries instead of {wanted}: no more vectors than that"
        for k, (codebook, wanted) in enumerate(zip(codebooks, entries, strict=False))
        if len(codebook) < wanted
    ]
    if len(codebooks) < len(entries):
        notes.append(
            f"codebooks {len(codebooks)} to {len(entries) - 1} left out: "
            "the residual is already zero"
        )
    return notes


def additive_bits(
    shape: LinearShape,
    group_size: int,
    entries: list[int],
    coverage: list[int],
    dtype: CodebookDtype,
    stored_positions: int = 0,
    share: float = 1.0,
) -> BitCount:
    """The bits of an `AdditiveWeight` of some shape.

    Args:
        shape: of the linear.
        group_size: d.
        entries: wanted sizes of codebooks; none gets more entries than there are vectors.
        coverage: groups that each codebook covers.
        dtype: of stored codebooks.
        stored_positions: leading positions of the order that are stored.
        share: part of the codebooks' bits that the linear answers for.
    """
    _, out_features, in_features = shape
    sizes: list[int] = []
    for wanted, groups in zip(entries, coverage, strict=True):
        # With an entry for each vector nothing is left over for the codebooks after it.
        exhausted = bool(sizes) and sizes[-1] == out_features * coverage[len(sizes) - 1]
        if groups == 0 or (exhausted and groups <= coverage[len(sizes) - 1]):
            break
        sizes.append(min(wanted, out_features * groups))
    return AdditiveWeight.count(
        AdditiveSizes(
            out_features=out_features,
            in_features=in_features,
            group_size=group_size,
            groups=coverage[: len(sizes)],
            entries=sizes,
            codebook_dtype=dtype,
            reordered=stored_positions,
            codebook_set=None,
            codebook_share=share,
        )
    )
