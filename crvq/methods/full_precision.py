"""Nothing is quantized: the anchor row of every table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.methods.method import LinearInput, LinearShape, QuantizedLinear
from crvq.methods.registry import register_method


class FullPrecisionParams(StrictModel):
    """There is nothing to set."""


@register_method("full_precision")
class FullPrecisionMethod:
    """Leaves every weight as it is; a run with it only evaluates."""

    Params: ClassVar[type[StrictModel]] = FullPrecisionParams
    quantizes: ClassVar[bool] = False

    def __init__(self, params: FullPrecisionParams, seed: int) -> None:
        self.params = params

    def survey_blocks(self, count: int) -> Sequence[int]:
        """None."""
        return []

    def survey(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Nothing to find."""

    def shared_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def restore_shared(self, tensors: dict[str, Tensor]) -> None:
        """Nothing to take back."""

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Yields nothing."""
        return iter(())

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Nothing differs from what was asked."""
        return {}
