"""What every quantization method is: linears of a block in, quantized weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.errors import ConfigError
from crvq.vq.hessian import Hessian
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight

P = TypeVar("P", bound=StrictModel)


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
    hessian: Hessian
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


class Method(ABC, Generic[P]):
    """A quantization method. It knows nothing of models, files, Hydra or W&B.

    A subclass sets ``Params`` and has `quantize_block`; everything else has a default.

    Args:
        params: of the subclass's ``Params``.
        seed: of the run.
    """

    Params: ClassVar[type[StrictModel]]
    quantizes: ClassVar[bool] = True
    """False for a method that leaves every weight alone (full precision)."""
    revision: ClassVar[int] = 1
    """Raise by one when the method's results change for the same parameters and seed."""
    uses_solver: ClassVar[bool] = False
    """Whether results depend on the shared solver (`crvq.vq.revision.SOLVER_REVISION`)."""
    fits_budgets: ClassVar[bool] = False
    """Whether the method has a rule for bit budgets, `fit_budget`."""

    def __init__(self, params: P, seed: int) -> None:
        self.params = params
        self.seed = seed

    @abstractmethod
    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize the linears of one block; yields each as it is done."""

    @property
    def divides_blocks(self) -> bool:
        """Whether linear layers of a block can be quantized apart from each other."""
        return True

    def prepare_blocks(self, count: int) -> Sequence[int]:
        """Return indices of the blocks, of ``count``, that `prepare` wants to see; default none."""
        return []

    def prepare(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Look at some blocks (full-precision activations) before the first one is quantized.

        Args:
            blocks: the linears of each block that `prepare_blocks` asked for.
            kinds: weights (elements) of each kind of linear in the whole model.
        """

    def shared_tensors(self) -> dict[str, Tensor]:
        """Return what `prepare` found; stored, so that a resumed run need not prepare again."""
        return {}

    def restore_shared(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `shared_tensors` returned."""

    def plan(self) -> dict[str, Any]:
        """Return what `prepare` decided, as JSON can hold it; stored like `shared_tensors`."""
        return {}

    def restore_plan(self, plan: Mapping[str, Any]) -> None:
        """Take back what `plan` returned."""

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Look at a stored block's weights, by kind, before the next block is quantized.

        Called again for every stored block when a run is resumed.
        """

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Return what requested parameters come to on these shapes.

        A key that is also a parameter's name holds one number to set next to the requested one.
        """
        return {}

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount | None:
        """Return the bits of all linear layers of these shapes with the present parameters.

        An upper limit where they depend on values; None where the method cannot say.
        """
        return None

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> P:
        """Return the parameters, changed so that they come to ``bits``.

        Args:
            bits: average over all weights of ``shapes``, everything counted.
            shapes: every linear that will be quantized.

        Raises:
            BudgetError: out of reach; names the nearest that the method can reach.
            ConfigError: the method has no rule (``fits_budgets`` is False).
        """
        raise ConfigError(
            f"budget.bits={bits:g}: {type(self).__name__} has no rule for a budget; set "
            "budget=layout"
        )
