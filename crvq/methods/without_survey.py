"""What a method does before the walk when it needs nothing before the walk."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from crvq.methods.method import LinearInput


class WithoutSurvey:
    """The part of `crvq.methods.method.Method` that looks at blocks beforehand, left empty."""

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
