"""Full precision: no weight is changed; the reference row of every table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import FullPrecisionParams
from crvq.methods.method import LinearInput, Method, QuantizedLinear
from crvq.methods.registry import register_method


@register_method("full_precision")
class FullPrecisionMethod(Method[FullPrecisionParams]):
    """Leaves every weight as it is; a run with it only evaluates."""

    Params: ClassVar[type[StrictModel]] = FullPrecisionParams
    quantizes: ClassVar[bool] = False

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Yield nothing."""
        return iter(())
