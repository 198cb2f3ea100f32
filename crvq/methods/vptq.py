"""VPTQ: vectors along the output dimension, column by column with error feedback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.vector_params import VptqParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.hessian import Hessian, output_loss
from crvq.vq.kmeans import kmeans, nearest_centroids
from crvq.vq.linear_solve import solve_linear_parts
from crvq.vq.output_vectors import OutlierColumns, OutputVectorColumns, output_vectors
from crvq.vq.storage import to_float16
from crvq.weights.bits import BitCount
from crvq.weights.column_vq import ColumnVqSizes, ColumnVqWeight
from crvq.weights.trainable import trainable

# Vector sizes and index bits that a budget may choose.
_SIZES = (1, 2, 4, 8, 16)
_BITS = range(1, 13)


@register_method("vptq")
class VptqMethod(LinearByLinear[VptqParams]):
    """VPTQ (arXiv 2409.17066, algorithm 1).

    A code stands for v rows of one column. Columns are taken in order of diag(H), descending;
    codebooks come from k-means weighted by diag(H) of a vector's column (section 3.2); then each
    column takes its nearest centroids and later columns answer its error (section 3.1). A residual
    codebook (section 3.3) is fitted to what the main one leaves of the weights, and coded in the
    same pass; the columns with the largest diag(H) may have a codebook of shorter vectors (section
    3.4).

    Differences from the authors' code: it runs a pass of the main codebook before it fits the
    residual one to that pass's errors, where ours fits to the residuals of the original weights;
    it may divide columns by their range (``enable_norm``) and cut columns into groups with a
    codebook each, both left out here; it stores the column permutation, which natural-order codes
    do not need. The last step, codebooks by least squares under H for fixed codes
    (``update_steps``), stands for the layer-wise fine-tuning of the paper, which the code no longer
    has; ``update_steps=0`` leaves it out.

    Everything is counted: the authors' bits leave out codebooks, which at the paper's 2^16 vectors
    of 8 weigh a megabyte per layer. A record's ``effective`` has their count as
    ``bits_as_published``.

    Budget rule: of v = 1 to 16, 1 to 12 index bits, with or without a residual codebook of as many
    bits, the layout with most code bits per weight; among equals the longest vectors.
    """

    Params: ClassVar[type[StrictModel]] = VptqParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Fit codebooks, code the columns, and solve for the codebooks."""
        params, (out_features, in_features) = self.params, linear.weight.shape
        hessian = damped_hessian(linear, params.damping)
        diag_h = hessian.matrix.diagonal()
        order = diag_h.argsort(descending=True, stable=True)
        factor = hessian.shared_factor(order)
        cost = diag_h if params.kmeans_weight == "diag_h" else hessian.inv_diag_weight
        outliers = outlier_columns(params, in_features)
        weight, cost = linear.weight[:, order], cost[order]
        generator = torch.Generator().manual_seed(linear.seed)
        special = None
        if outliers:
            vectors = output_vectors(weight[:, :outliers], params.outlier_vector_size)
            book = self._fit(vectors, cost[:outliers], params.outlier_bits, generator)
            special = OutputVectorColumns([book], out_features, outliers)
        books = self._main_codebooks(weight[:, outliers:], cost[outliers:], generator)
        plain = OutputVectorColumns(books, out_features, in_features - outliers)
        quantize_columns(weight, OutlierColumns(special, plain, outliers, in_features), factor)
        # Codes from the order of quantization into the natural order of their columns.
        outlier = torch.zeros(in_features, dtype=torch.bool, device=weight.device)
        outlier[order[:outliers]] = True
        back = order[outliers:].argsort()
        stored = ColumnVqWeight(out_features, outlier, plain.codes[0][:, back], books[0])
        if len(books) > 1:
            stored.residual_codes, stored.residual_codebook = plain.codes[1][:, back], books[1]
        if special is not None:
            stored.outlier_codes = special.codes[0][:, order[:outliers].argsort()]
            stored.outlier_codebook = book
        notes = damping_notes(hessian)
        padding = -out_features % params.vector_size
        if padding:
            notes.append(f"{padding} of {out_features + padding} rows are padding")
        return Rounded(self._update(linear.weight, hessian, stored), notes=notes)

    def _main_codebooks(
        self, weight: Tensor, cost: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """Return the main codebook, and the residual one if it is asked for."""
        params = self.params
        vectors = output_vectors(weight, params.vector_size)
        books = [self._fit(vectors, cost, params.codebook_bits, generator)]
        if params.residual_bits:
            flat = vectors.flatten(0, 1)
            nearest = nearest_centroids(flat, torch.ones_like(flat), books[0])[0]
            left = vectors - books[0][nearest].view_as(vectors)
            books.append(self._fit(left, cost, params.residual_bits, generator))
        return books

    def _fit(self, vectors: Tensor, cost: Tensor, bits: int, generator: torch.Generator) -> Tensor:
        """Run weighted k-means on ``(positions, columns, v)``; centroids as float16 holds them."""
        weights = cost[None, :, None].expand_as(vectors)
        found = kmeans(
            vectors.flatten(0, 1),
            weights.flatten(0, 1),
            2**bits,
            self.params.kmeans_iterations,
            generator,
            self.params.kmeans_sample,
        )
        return to_float16(found, "a codebook entry")

    def _update(self, weight: Tensor, hessian: Hessian, stored: ColumnVqWeight) -> ColumnVqWeight:
        """Solve for the codebooks of fixed codes, and keep them if the rounded ones lose less."""
        made = trainable(stored, weight.device)
        if made is None or not self.params.update_steps:
            return stored
        parts = made.parts
        found = solve_linear_parts(
            weight,
            hessian.matrix,
            parts,
            made.dense,
            lambda gradient: made.pullback(parts, gradient),
            self.params.update_steps,
        )
        better = made.quantized(found)
        losses = [output_loss(weight - w.dequantize(), hessian.matrix) for w in (stored, better)]
        return better if losses[1] < losses[0] else stored

    def layouts(self) -> Iterable[VptqParams]:
        """Most code bits per weight first, then longest vectors, then one codebook before two."""
        choices = [
            (v, bits, residual)
            for v in _SIZES
            for bits in _BITS
            for residual in (0, bits)
            if not (residual and v == 1)
        ]
        choices.sort(key=lambda c: (-(c[1] + c[2]) / c[0], -c[0], c[2]))
        for v, bits, residual in choices:
            update = {"vector_size": v, "codebook_bits": bits, "residual_bits": residual}
            yield self.params.model_copy(update=update)

    def count(self, params: VptqParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        outliers = outlier_columns(params, columns)
        main = -(-rows // params.vector_size) * (columns - outliers)
        special = -(-rows // params.outlier_vector_size) * outliers
        return ColumnVqWeight.count(
            ColumnVqSizes(
                out_features=rows,
                in_features=columns,
                vector_size=params.vector_size,
                entries=min(2**params.codebook_bits, main),
                residual_entries=min(2**params.residual_bits, main) if params.residual_bits else 0,
                outliers=outliers,
                outlier_vector_size=params.outlier_vector_size if outliers else 1,
                outlier_entries=min(2**params.outlier_bits, special),
            )
        )


def outlier_columns(params: VptqParams, columns: int) -> int:
    """Return how many columns are outliers: never all of them."""
    return min(round(params.outlier_ratio * columns), columns - 1)
