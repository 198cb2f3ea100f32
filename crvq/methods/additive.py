"""What methods with additive codes (CRVQ, AQLM) share: the stored weight and its bits."""

from __future__ import annotations

from torch import Tensor

from crvq.methods.method import LinearInput, LinearShape
from crvq.vq.additive_code import CodedLinear
from crvq.vq.choices import CodebookDtype
from crvq.vq.scale_solve import storable_scales
from crvq.vq.storage import store_codebook
from crvq.weights.additive import AdditiveSizes, AdditiveWeight
from crvq.weights.bits import BitCount


def additive_weight(
    source: LinearInput,
    linear: CodedLinear,
    codebooks: list[Tensor],
    dtype: CodebookDtype,
    stored_positions: int,
    codebook_set: str | None = None,
    share: float = 1.0,
) -> AdditiveWeight:
    """Return the stored weight of a fitted linear.

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
    """Return which codebooks came out smaller than asked for, or were left out.

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
    """Return the bits of an `AdditiveWeight` of some shape.

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
