"""QTIP: tiles of weights as paths through a trellis, columns of tiles with error feedback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.linear_by_linear import LinearByLinear, Rounded, damped_hessian, damping_notes
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.methods.vector_params import QtipParams
from crvq.vq.gptq import quantize_columns
from crvq.vq.scale_solve import best_scales, storable_scales
from crvq.vq.trellis import TILE, code_table, from_tiles, search_trellis, states_of, to_tiles
from crvq.weights.bits import BitCount
from crvq.weights.trellis import TrellisSizes, TrellisWeight


@register_method("qtip")
class QtipMethod(LinearByLinear[QtipParams]):
    """QTIP (arXiv 2406.11235): trellis-coded quantization inside block-wise error feedback.

    Tiles of 16 x 16 weights are sequences of 256 (section 4.1), coded by Viterbi's algorithm with
    both ends joined (algorithm 4); 16 columns at a time answer the errors of those before them
    (BlockLDLQ of QuIP#, with GPTQ's update, which is the same). The code is computed from the state
    (`code=1mad` or `3inst`, section 3.1), so that no codebook is stored.

    Such a code suits normally distributed weights of equal spread: use it with
    ``rotation=hadamard``, as the paper does. The authors also rotate the out features and keep one
    scale per matrix; here out features stay as they are and each row has a scale, solved in closed
    form at the end. Inside a tile the search weighs a column by what its error costs once later
    columns have answered it; the paper weighs all alike, which a rotated H makes almost true. Their
    hybrid code, a small trained table, and fine-tuning of the unquantized layers are left out.

    Everything is counted: codes, padding of the last tiles, a float16 scale per row.

    Budget rule: codes of 4 to 1 bits.
    """

    Params: ClassVar[type[StrictModel]] = QtipParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Code columns of tiles with feedback, then solve for the scales."""
        params, weight = self.params, linear.weight
        hessian = damped_hessian(linear, params.damping)
        factor = hessian.shared_factor(torch.arange(weight.shape[1], device=weight.device))
        columns = TrellisColumns(weight, params)
        quantize_columns(weight, columns, factor)
        numbers = columns.table[states_of(columns.codes, params.bits, params.state_bits)]
        numbers = from_tiles(numbers, *weight.shape)
        scales = best_scales(
            weight, numbers, numbers @ hessian.matrix, columns.scales, may_be_zero=True
        )
        stored = TrellisWeight(
            in_features=weight.shape[1],
            code=params.code,
            code_bits=params.bits,
            state_bits=params.state_bits,
            codes=columns.codes,
            scales=storable_scales(scales),
        )
        return Rounded(stored, notes=damping_notes(hessian))

    def layouts(self) -> Iterable[QtipParams]:
        """Most bits first."""
        for bits in (4, 3, 2, 1):
            yield self.params.model_copy(update={"bits": bits})

    def count(self, params: QtipParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        return TrellisWeight.count(
            TrellisSizes(
                out_features=shape.out_features,
                in_features=shape.in_features,
                code=params.code,
                code_bits=params.bits,
                state_bits=params.state_bits,
            )
        )


class TrellisColumns:
    """Codes 16 columns at a time, all their tiles side by side.

    Args:
        weight: ``(out, in)``, before any feedback; its rows' spread gives the scales.
        params: bits, code and register.
    """

    def __init__(self, weight: Tensor, params: QtipParams) -> None:
        self.width, self.span = TILE, -(-weight.shape[1] // TILE) * TILE
        self._bits = params.bits
        self.table = code_table(params.code, params.state_bits).to(weight.device)
        # The best approximation of a normal source at distortion D has variance 1 - D, and
        # D = 4^-bits is the least that so many bits allow.
        shrink = (1 - 4.0**-params.bits) ** 0.5
        self.scales = storable_scales(weight.square().mean(1).sqrt() * shrink)
        tiles = self.span // TILE, -(-len(weight) // TILE)
        self.codes = torch.zeros(*tiles, TILE * TILE, dtype=torch.int64, device=weight.device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Nothing: scales are fixed."""

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Code the tiles of these columns; a narrower last tile is padded with free weights."""
        scales = self.scales[:, None]
        values = torch.where(scales > 0, weight / scales.clamp_min(1e-30), 0.0)
        cost = torch.nn.functional.pad(metric.diagonal(), (0, TILE - weight.shape[1]))
        # Only ratios matter; in float32 sums of 256 costs stay exact enough this way.
        weights = (cost / cost.max()).repeat(TILE)
        place = columns.start // TILE
        tiles = to_tiles(values)[0]
        state_bits = len(self.table).bit_length() - 1
        self.codes[place] = search_trellis(tiles, weights, self.table, self._bits)
        numbers = self.table[states_of(self.codes[place], self._bits, state_bits)]
        return from_tiles(numbers[None], *weight.shape) * scales
