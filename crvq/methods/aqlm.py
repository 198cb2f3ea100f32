"""AQLM: additive quantization, every codebook for every group (arXiv 2401.06118)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.additive import additive_bits, additive_weight, small_codebook_notes
from crvq.methods.baseline_params import AqlmParams
from crvq.methods.coded_layout import padded_features
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.additive_code import coded_linear
from crvq.vq.alternate import alternate
from crvq.vq.importance import row_scales
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.weights.bits import BitCount

# What a budget may choose from, in addition to the requested values.
_GROUP_SIZES = (4, 8, 16)
_CODEBOOKS = (1, 2, 3, 4)
_LEAST_BITS = 2
_MOST_BITS = 8


@register_method("aqlm")
class AqlmMethod(LinearByLinear[AqlmParams]):
    """Sums of one entry of each of m codebooks, channels in their natural order.

    The layer stage of AQLM (arXiv 2401.06118, section 3.1-3.2): residual k-means, then codebooks
    and codes in turn. Codebooks have a closed-form solver here where the authors take Adam steps;
    codes are found with error feedback first, then by coordinate descent.

    Budget rule: of d = 4, 8, 16 (or as asked), 1 to 4 codebooks, 2 to 8 bits per index (or as
    asked), the layout with most code bits per weight; among equals the longest vectors, codebooks
    stored as asked if the budget allows (else in 8 bits), and then the fewest of them.
    """

    Params: ClassVar[type[StrictModel]] = AqlmParams
    uses_solver: ClassVar[bool] = True

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Fit codebooks, codes and scales."""
        params, d = self.params, self.params.group_size
        hessian = damped_hessian(linear, params.damping, d)
        positions = len(hessian.matrix)
        padding = positions - linear.weight.shape[1]
        weight = torch.nn.functional.pad(linear.weight, (0, padding))
        order = torch.arange(positions, device=weight.device)
        coverage = [positions // d] * params.codebooks
        coded = coded_linear(weight, hessian, order, coverage, row_scales(weight))
        entries = [2**params.codebook_bits] * params.codebooks
        generator = torch.Generator().manual_seed(linear.seed)
        start = initial_codebooks(
            [coded], entries, params.kmeans_iterations, params.kmeans_sample, generator
        )
        fitted = alternate([coded], start, params.alternation())
        notes = small_codebook_notes(fitted.codebooks, entries) + damping_notes(hessian)
        if padding:
            notes.append(f"{padding} of {positions} channels are padding")
        stored = additive_weight(linear, coded, fitted.codebooks, params.codebook_dtype, 0)
        return Rounded(stored, fitted.rounds, notes)

    def layouts(self) -> Iterable[AqlmParams]:
        """Most code bits first, then longest vectors, storage as asked, fewest codebooks."""
        asked = self.params
        most_bits = max(_MOST_BITS, asked.codebook_bits)
        dtypes = list(dict.fromkeys([asked.codebook_dtype, "int8"]))
        choices = [
            (d, m, bits, storage)
            for d in {*_GROUP_SIZES, asked.group_size}
            for m in {*_CODEBOOKS, asked.codebooks}
            for bits in range(_LEAST_BITS, most_bits + 1)
            for storage in range(len(dtypes))
        ]
        choices.sort(key=lambda c: (-c[1] * c[2] / c[0], -c[0], c[3], c[1]))
        for d, m, bits, storage in choices:
            layout = {"group_size": d, "codebooks": m, "codebook_bits": bits}
            yield asked.model_copy(update={**layout, "codebook_dtype": dtypes[storage]})

    def count(self, params: AqlmParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        groups = padded_features(shape.in_features, params.group_size) // params.group_size
        entries = [2**params.codebook_bits] * params.codebooks
        coverage = [groups] * params.codebooks
        return additive_bits(shape, params.group_size, entries, coverage, params.codebook_dtype)
