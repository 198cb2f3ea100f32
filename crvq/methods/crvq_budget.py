"""CRVQ's rule for a bit budget, and what its layouts would weigh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from crvq.methods.additive import additive_bits
from crvq.methods.coded_layout import asked_critical_groups, padded_features, stored_positions
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearShape
from crvq.weights.bits import BitCount

_GROUP_SIZES = (2, 4, 8, 16)
_LEAST_BITS = 2
_MOST_BITS = 8


def crvq_layouts(asked: CrvqParams) -> Iterable[CrvqParams]:
    """Most base code bits per weight first, then the longest vectors, then the dearest codebooks.

    d is 2, 4, 8, 16 or as asked; the index has 2 to 8 bits, or up to as many as asked; extended
    codebooks have no more bits than the basic one. Codebooks are stored and shared as asked where
    the budget allows, else in 8 bits, else also by a block's linears: in a small model
    they would otherwise take the place of codes. All else stays as asked: the critical ratio is
    what a run is about.
    """
    storages = _storages(asked)
    choices = [
        (d, bits, storage)
        for d in {*_GROUP_SIZES, asked.group_size}
        for bits in range(_LEAST_BITS, max(_MOST_BITS, asked.codebook_bits) + 1)
        for storage in range(len(storages))
    ]
    choices.sort(key=lambda choice: (-choice[1] / choice[0], -choice[0], choice[2]))
    for d, bits, storage in choices:
        extended = min(asked.extended_bits, bits)
        update = {"group_size": d, "codebook_bits": bits, "extended_bits": extended}
        yield asked.model_copy(update={**update, **storages[storage]})


def _storages(asked: CrvqParams) -> list[dict[str, Any]]:
    """Ways to keep codebooks, from what is asked for to what weighs least, each once."""
    may_share = asked.codebook_scope == "linear" and not asked.warm_start
    shared = "block" if may_share else asked.codebook_scope
    ways = [
        {"codebook_dtype": asked.codebook_dtype, "codebook_scope": asked.codebook_scope},
        {"codebook_dtype": "int8", "codebook_scope": asked.codebook_scope},
        {"codebook_dtype": "int8", "codebook_scope": shared},
    ]
    return [way for place, way in enumerate(ways) if way not in ways[:place]]


def crvq_bits(params: CrvqParams, shape: LinearShape, shapes: Sequence[LinearShape]) -> BitCount:
    """Return the bits of one linear of a model.

    Exact where codebooks are a linear's own; shared ones are taken to have all their entries.

    Args:
        params: the layout.
        shape: of the linear.
        shapes: of all linears, as shared codebooks are paid for by all that share them.
    """
    d = params.group_size
    padded = padded_features(shape.in_features, d)
    critical = asked_critical_groups(shape.in_features, params)
    return additive_bits(
        shape,
        d,
        entries=[2**params.codebook_bits] + [2**params.extended_bits] * params.extended_codebooks,
        coverage=[padded // d] + [critical] * params.extended_codebooks,
        dtype=params.codebook_dtype,
        stored_positions=stored_positions(params.reorder, padded, critical * d),
        share=_share(params, shape, shapes),
    )


def _share(params: CrvqParams, shape: LinearShape, shapes: Sequence[LinearShape]) -> float:
    """Return the part of a set of codebooks that a linear pays for, by its weights."""
    if params.codebook_scope == "linear":
        return 1.0
    own = shape.out_features * shape.in_features
    if params.codebook_scope == "model":
        return own / sum(s.out_features * s.in_features for s in shapes if s.kind == shape.kind)
    blocks = max(Counter(s.kind for s in shapes).values())
    return own * blocks / sum(s.out_features * s.in_features for s in shapes)
