"""PTQ1.61: a fifth of the columns in 4 bits, signs with learned scales in all others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.binary_params import Ptq161Params
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.binary import signed
from crvq.vq.column_signs import fit_column_signs
from crvq.vq.storage import to_float16
from crvq.vq.uniform_grid import fit_grid, grid_codes, grid_values
from crvq.weights.bits import BitCount
from crvq.weights.column_binary import ColumnBinarySizes, ColumnBinaryWeight

# Ratios that a budget may choose: 0 to 1.
_RATIOS = [part / 100 for part in range(100, -1, -1)]


@register_method("ptq161")
class Ptq161Method(LinearByLinear[Ptq161Params]):
    """PTQ1.61 (arXiv 2502.13179): structured mask, 4-bit salient channels, scales of signs.

    Salient columns are those with the largest activations (here E[x²]); they take an asymmetric
    grid per row that includes 0. The others are ``sign(w - mean) scale + mean`` per row, times a
    matrix of rank one.

    The authors train scale and rank-one factors with AdamW (20 epochs) on a block's output: squared
    error and cosine, for full-precision and for quantized inputs. Here they are fitted to each
    layer's loss by alternating least squares: the row's factor is merged into scale and mean, which
    makes both free. ``finetune=block`` trains them on the block's output. Missing is the authors'
    preprocessing (LoRA on the full-precision model before it is quantized).

    Counted are also the bitmap of columns and all numbers; the paper's 1.6 bits are
    ``bits_as_published``. Budget rule: the largest salient ratio that it pays for.
    """

    Params: ClassVar[type[StrictModel]] = Ptq161Params

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Grids of salient columns, then signs and their scales in all others."""
        params, weight, moment = self.params, linear.weight, linear.hessian.matrix
        number = salient_columns(weight.shape[1], params.salient_ratio)
        salient = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
        salient[moment.diagonal().argsort(descending=True, stable=True)[:number]] = True
        error = weight.clone()
        if number:
            steps, zeros = fit_grid(weight[:, salient], params.salient_bits)
            steps, zeros = steps[:, None], zeros[:, None]
            codes = grid_codes(weight[:, salient], steps, zeros, params.salient_bits)
            error[:, salient] -= grid_values(codes, steps, zeros)
        else:
            steps, zeros = torch.ones(len(weight), 1), torch.zeros(len(weight), 1).long()
            codes = weight.new_zeros(len(weight), 0).long()
        others = weight[:, ~salient]
        means = others.mean(1) if number < len(salient) else weight.new_zeros(len(weight))
        centered = others - means[:, None]
        signs = centered >= 0
        size = centered.abs().mean(1) if number < len(salient) else torch.zeros_like(means)
        scales, columns = size, weight.new_ones(others.shape[1])
        if others.shape[1]:
            scales, means, columns = fit_column_signs(
                (error @ moment)[:, ~salient],
                signed(signs),
                moment[~salient][:, ~salient],
                (scales, means, columns),
                params.fit_iterations,
            )
            scales, means, columns = balanced(scales, means, columns)
        stored = ColumnBinaryWeight(
            salient_bits=params.salient_bits,
            salient=salient,
            signs=signs,
            codes=codes,
            scales=to_float16(scales, "a scale"),
            means=to_float16(means, "a mean"),
            columns=to_float16(columns, "a column's factor"),
            steps=steps[:, 0].to(weight.device),
            zeros=zeros[:, 0].to(weight.device),
        )
        return Rounded(stored, rounds=max(1, params.fit_iterations))

    def layouts(self) -> Iterable[Ptq161Params]:
        """Most salient columns first."""
        for ratio in _RATIOS:
            yield self.params.model_copy(update={"salient_ratio": ratio})

    def count(self, params: Ptq161Params, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        return ColumnBinaryWeight.count(
            ColumnBinarySizes(
                out_features=rows,
                in_features=columns,
                salient_bits=params.salient_bits,
                salient=salient_columns(columns, params.salient_ratio),
            )
        )


def salient_columns(columns: int, ratio: float) -> int:
    """Return how many columns are salient."""
    return round(columns * ratio)


def balanced(
    scales: torch.Tensor, means: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the same product with column factors of mean magnitude 1, for float16's range."""
    size = columns.abs().mean()
    if not float(size) > 0:
        return scales, means, columns
    return scales * size, means * size, columns / size
