"""What every quantization method is: linears of a block in, quantized weights out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.vq.curvature import Curvature
from crvq.weights.quantized import QuantizedWeight


class LinearShape(NamedTuple):
    """The shape of one linear of the model."""

    kind: str
    out_features: int
    in_features: int


@dataclass(frozen=True)
class LinearInput:
    """One linear as a method sees it."""

    name: str
    """Full name in the model, e.g. ``model.layers.0.mlp.up_proj``."""
    kind: str
    """Name inside its block, e.g. ``mlp.up_proj``."""
    weight: Tensor
    """``(out, in)``, float32."""
    curvature: Curvature
    """Of its input; one object for linears that read one input."""
    seed: int
    """Its own seed, so that results don't depend on what was quantized before."""
    tokens: int = 0
    """Calibration tokens it saw."""


@dataclass(frozen=True)
class QuantizedLinear:
    """What a method made of a linear."""

    source: LinearInput
    weight: QuantizedWeight
    loss: float
    """``tr(ΔW H ΔWᵀ) / out``."""
    relative_loss: float
    """``tr(ΔW H ΔWᵀ) / tr(W H Wᵀ)``; 0 where there was nothing to lose."""
    rounds: int
    seconds: float
    critical_in_features: list[int] = field(default_factory=list)
    """In features that extended codebooks cover, in the order in which they are coded."""
    notes: list[str] = field(default_factory=list)

    @property
    def critical_channels(self) -> int:
        """How many in features extended codebooks cover."""
        return len(self.critical_in_features)


@runtime_checkable
class FollowsBlocks(Protocol):
    """A method that wants to see each block as it is stored before it is given the next one."""

    def follow(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Look at a stored block's weights, by kind; told again when a run is resumed."""
        ...


class Method(Protocol):
    """A quantization method. It knows nothing of models, files, Hydra or W&B."""

    Params: ClassVar[type[StrictModel]]
    quantizes: ClassVar[bool]
    """False for a method that leaves every weight alone (full precision)."""
    revision: ClassVar[int] = 1
    """Raise by one when the method's results change for the same parameters and seed."""
    uses_solver: ClassVar[bool] = False
    """Whether results depend on the shared solver (`crvq.vq.revision.SOLVER_REVISION`)."""

    def survey_blocks(self, count: int) -> Sequence[int]:
        """Indices of blocks that `survey` wants to see before the walk, of ``count``."""
        ...

    def survey(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Look at surveyed blocks (full-precision activations) before the walk.

        Args:
            blocks: the linears of each surveyed block.
            kinds: weights (elements) of each kind of linear in the whole model.
        """
        ...

    def shared_tensors(self) -> dict[str, Tensor]:
        """What the survey found, to be stored so that a resumed walk needs no survey."""
        ...

    def restore_shared(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `shared_tensors` gave."""
        ...

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the linears of one block; yields each as it is done."""
        ...

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """What asked-for parameters really come to on these shapes.

        A key that is also a parameter's name holds one number to set beside the asked one.
        """
        ...
