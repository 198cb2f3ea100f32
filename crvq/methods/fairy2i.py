"""Fairy2i: a real weight in complex form, rounded to four phases, stage after stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from crvq.config.strict import StrictModel
from crvq.methods.binary_params import Fairy2iParams
from crvq.methods.linear_by_linear import LinearByLinear, Rounded
from crvq.methods.method import LinearInput, LinearShape
from crvq.methods.registry import register_method
from crvq.vq.storage import to_float16
from crvq.vq.widely_linear import fit_phase_scales, nearest_phases, phase_values, to_complex
from crvq.weights.bits import BitCount
from crvq.weights.complex_phases import ComplexPhasesSizes, ComplexPhasesWeight


@register_method("fairy2i")
class Fairy2iMethod(LinearByLinear[Fairy2iParams]):
    """Fairy2i (arXiv 2512.02901): widely linear form, phases {±1, ±i}, residual stages.

    Every stage rounds what earlier ones left to the nearest phase in angle, with one scale for real
    and one for imaginary phases. The authors train the full-precision weights through this rounding
    (straight-through); here it is applied once, and scales are refitted under H
    (``fit_scales``). Without training this is the paper's start, not its result. Scales are one set
    per complex row here.

    A stage costs 1 bit per real weight; scales of float16, ``32 stages / in`` bits per weight, are
    counted as well. ``finetune=block`` trains scales.

    Budget rule: the most stages, of one to four.
    """

    Params: ClassVar[type[StrictModel]] = Fairy2iParams

    def quantize_linear(self, linear: LinearInput) -> Rounded:
        """Stage by stage, then all scales together."""
        (rows, columns), weight = linear.weight.shape, linear.weight
        moment = linear.hessian.matrix
        weight = torch.nn.functional.pad(weight, (0, columns % 2, 0, rows % 2))
        moment = torch.nn.functional.pad(moment, (0, columns % 2, 0, columns % 2))
        left, codes, scales = to_complex(weight), [], []
        for _ in range(self.params.stages):
            stage_codes, stage_scales = nearest_phases(left)
            left = left - phase_values(stage_codes[None], stage_scales[None])
            codes.append(stage_codes)
            scales.append(stage_scales)
        all_codes, all_scales = torch.stack(codes), torch.stack(scales)
        if self.params.fit_scales:
            all_scales = fit_phase_scales(weight, all_codes, moment, all_scales)
        stored = to_float16(all_scales, "a scale")
        return Rounded(ComplexPhasesWeight(rows, columns, all_codes, stored))

    def layouts(self) -> Iterable[Fairy2iParams]:
        """Most stages first."""
        for stages in (4, 3, 2, 1):
            yield self.params.model_copy(update={"stages": stages})

    def count(self, params: Fairy2iParams, shape: LinearShape) -> BitCount:
        """Return the exact bits of a linear of this shape."""
        _, rows, columns = shape
        return ComplexPhasesWeight.count(
            ComplexPhasesSizes(out_features=rows, in_features=columns, stages=params.stages)
        )
