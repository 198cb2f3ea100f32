"""Rotation: an orthogonal change of basis of activations, before any method quantizes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crvq.config.strict import StrictModel

ROTATION_REVISION = 1
"""Raise by one when a rotation's results change for the same configuration and seed."""


class RotationConfig(StrictModel):
    """The rotation group. It is stored with the weight (one sign per in feature), and counted."""

    kind: Literal["none", "hadamard", "block_hadamard"] = Field(
        "none",
        description="hadamard mixes all in features of a layer, block_hadamard those of one block",
    )
    block: int = Field(64, ge=2, le=4096, description="in features of a block: a power of two")
    keep: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="part of the in features that stays as it is: those with the largest "
        "diag(H) |w|²; with CRVQ, give its critical channels' part",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.block & (self.block - 1):
            below = 1 << (self.block.bit_length() - 1)
            raise ValueError(
                f"rotation.block={self.block} is not a power of two: {below} or {2 * below}"
            )
        if self.kind == "none" and self != RotationConfig.model_construct():
            raise ValueError(
                "rotation.block and rotation.keep do nothing without a rotation; set "
                "rotation=block_hadamard, or leave them out"
            )
        return self

    @property
    def asked(self) -> bool:
        """Whether anything is rotated."""
        return self.kind != "none"
