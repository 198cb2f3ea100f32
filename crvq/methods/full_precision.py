"""Nothing is quantized: the anchor row of every table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import FullPrecisionParams
from crvq.methods.method import LinearInput, LinearShape, QuantizedLinear
from crvq.methods.registry import register_method
from crvq.methods.without_survey import WithoutSurvey


@register_method("full_precision")
class FullPrecisionMethod(WithoutSurvey):
    """Leaves every weight as it is; a run with it only evaluates."""

    Params: ClassVar[type[StrictModel]] = FullPrecisionParams
    quantizes: ClassVar[bool] = False

    def __init__(self, params: FullPrecisionParams, seed: int) -> None:
        self.params = params

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Yields nothing."""
        return iter(())

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Nothing differs from what was asked."""
        return {}
