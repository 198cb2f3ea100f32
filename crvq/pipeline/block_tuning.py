"""Block fine-tuning: which activations a block is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crvq.config import RunConfig
from crvq.finetune.block import BlockBatches, TunedBlock, finetune_block
from crvq.finetune.free_values import QuantizedSlot
from crvq.models.block_stream import BlockStream
from crvq.models.linear_slots import LinearSlot
from crvq.pipeline.fingerprint import derived_seed
from crvq.weights.quantized import QuantizedWeight


class BlockTuner:
    """Trains one block after another, right after its linears were quantized.

    Args:
        config: the run's; ``finetune.block`` is set.
        stream: in front of the first block; batches that validate come last.
    """

    def __init__(self, config: RunConfig, stream: BlockStream) -> None:
        assert config.finetune.block is not None
        self._config, self._stream = config.finetune, stream
        self._seed = config.seed
        passed = config.calibration.batch_size
        self._train = config.finetune.block_split(config.calibration).train // passed
        self._passes = config.finetune.block.batch_size // passed
        apart = config.calibration.stream == "quantized"
        self._follows_model = apart and config.finetune.block.targets == "model"
        self._reference: list[Tensor] | None = None

    def before_quantization(self, index: int) -> None:
        """Take the full-precision model's own activations past the block, if they are targets."""
        if not self._follows_model:
            return
        hidden = self._reference if self._reference is not None else self._stream.hidden
        with torch.no_grad():
            self._reference = [
                self._stream.output(index, batch, one) for batch, one in enumerate(hidden)
            ]

    def tune(
        self,
        index: int,
        block: nn.Module,
        slots: Mapping[str, LinearSlot],
        weights: Mapping[str, QuantizedWeight],
        outputs: Sequence[Tensor],
        fixed_sets: set[str],
    ) -> TunedBlock | None:
        """Train the block, its quantized weights in place.

        Args:
            index: of the block.
            block: the module.
            slots: by kind of linear.
            weights: what is in the slots, by kind.
            outputs: of the full-precision block for the stream's inputs, a batch each.
            fixed_sets: codebooks that serve other blocks too.
        """
        targets = self._reference if self._reference is not None else outputs
        inputs = self._stream.hidden
        batches = BlockBatches(
            run=lambda batch: self._stream.output(index, batch, inputs[batch]),
            targets=targets,
            train=self._train,
        )
        linears = [QuantizedSlot(kind, slots[kind], weight) for kind, weight in weights.items()]
        seed = derived_seed(self._seed, f"finetune/{index}")
        return finetune_block(
            index, block, linears, batches, self._config, self._passes, seed, fixed_sets
        )
