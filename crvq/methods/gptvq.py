"""GPTVQ: vector quantization column by column with error feedback (arXiv 2402.15319)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import GptvqParams
from crvq.methods.coded_layout import padded_features
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.gptq import quantize_columns
from crvq.vq.grouped_codebooks import PatchLayout, load_patches, solve_patches, store_patches
from crvq.vq.hessian import output_loss
from crvq.vq.patch_columns import PatchColumns
from crvq.weights.bits import BitCount
from crvq.weights.patch_vq import PatchSizes, PatchWeight

# What a budget may spend on codebooks, in bits per weight of a large layer.
_OVERHEADS = (0.25, 0.125, 0.0625, 0.03125)


@register_method("gptvq")
class GptvqMethod(LinearByLinear[GptvqParams]):
    """GPTVQ (arXiv 2402.15319, algorithm 1).

    Strips of columns are quantized in turn, d columns at a time, later columns compensating the
    errors of earlier ones. A codebook serves some rows of a strip: weighted EM from seeds spread
    by Mahalanobis distance, entries in 8 bits with a float16 step. At the end codebooks are
    updated for fixed codes (by conjugate gradient, where the authors take gradient steps) and
    kept if the loss of the rounded ones is lower. Rows of a patch are evened out, so that patches
    of one linear are nearly equal.

    Budget rule: of d = 1, 2, 4, 8 and 1 to 8 bits per index, the layout with most code bits per
    weight; among equals the longest vectors, then the smallest patches.
    """

    Params: ClassVar[type[StrictModel]] = GptvqParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Codebooks and codes strip by strip, then the codebook update."""
        params, d = self.params, self.params.vector_size
        out_features, in_features = linear.weight.shape
        hessian = damped_hessian(linear, params.damping, d)
        positions = len(hessian.matrix)
        weight = torch.nn.functional.pad(linear.weight, (0, positions - in_features))
        layout = patch_layout(params, out_features, in_features)
        factor = hessian.shared_factor(torch.arange(positions, device=weight.device))
        columns = PatchColumns(
            layout,
            cost=factor.diagonal().square().reciprocal(),
            entries=2**params.codebook_bits,
            iterations=params.em_iterations,
            scale_block=params.scale_block,
        )
        quantize_columns(weight, columns, factor)
        stored = PatchWeight(
            in_features=in_features,
            layout=layout,
            codes=columns.codes,
            entries=torch.empty(0),
            steps=torch.empty(0),
            scale_block=params.scale_block,
        )
        if params.scale_block is not None:
            stored.scale_codes = torch.cat(columns.scale_codes, 1)
            stored.scale_spans = torch.stack(columns.scale_spans)
        stored.entries, stored.steps = store_patches(columns.codebooks)
        self._update_codebooks(weight, hessian.matrix, columns, stored)
        notes = damping_notes(hessian)
        if positions > in_features:
            notes.append(f"{positions - in_features} of {positions} channels are padding")
        return Rounded(stored, notes=notes)

    def _update_codebooks(
        self,
        weight: torch.Tensor,
        second_moment: torch.Tensor,
        columns: PatchColumns,
        stored: PatchWeight,
    ) -> None:
        """Better codebooks for the codes, if they still are better when rounded to 8 bits."""
        index = stored.layout.codebook_index(weight.device)
        before = load_patches(stored.entries, stored.steps)
        updated = solve_patches(
            weight, second_moment, before, columns.codes, index, columns.scales,
            self.params.update_steps,
        )  # fmt: skip
        kept, in_features = (stored.entries, stored.steps), stored.in_features
        matrix = second_moment[:in_features, :in_features]
        source = weight[:, :in_features]
        loss = output_loss(source - stored.dequantize(), matrix)
        stored.entries, stored.steps = store_patches(updated)
        if output_loss(source - stored.dequantize(), matrix) >= loss:
            stored.entries, stored.steps = kept

    def layouts(self) -> Iterable[GptvqParams]:
        """Most code bits per weight first, then longest vectors, then smallest patches."""
        choices = [(d, bits) for d in (1, 2, 4, 8) for bits in range(1, 9)]
        choices.sort(key=lambda choice: (-choice[1] / choice[0], -choice[0]))
        for d, bits in choices:
            for overhead in _OVERHEADS:
                weights = max(8, round(2**bits * d * 8 / overhead))
                yield self.params.model_copy(
                    update={
                        "vector_size": d,
                        "codebook_bits": bits,
                        "weights_per_codebook": weights,
                    }
                )

    def count(self, params: GptvqParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        layout = patch_layout(params, shape.out_features, shape.in_features)
        return PatchWeight.count(
            PatchSizes(
                out_features=shape.out_features,
                in_features=shape.in_features,
                padded_in_features=layout.in_features,
                vector_size=layout.width,
                columns=layout.columns,
                rows=layout.rows,
                entries=2**params.codebook_bits,
                scale_block=params.scale_block,
            )
        )


def patch_layout(params: GptvqParams, out_features: int, in_features: int) -> PatchLayout:
    """Patches of a linear: as many bands as ``weights_per_codebook`` asks, evened out."""
    padded = padded_features(in_features, params.vector_size)
    columns = min(params.columns, padded)
    bands = max(1, round(out_features * columns / params.weights_per_codebook))
    rows = -(-out_features // min(bands, out_features))
    return PatchLayout(out_features, padded, params.vector_size, columns, rows)
