"""The walk over the blocks: collect inputs, quantize, store, and hand activations on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crvq.checkpoint import BlockStore
from crvq.config import RunConfig
from crvq.errors import QuantizationError
from crvq.methods import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.models.block_stream import BlockStream
from crvq.models.linear_slots import LinearSlot, find_slots
from crvq.models.second_moments import InputCollector
from crvq.pipeline.fingerprint import derived_seed
from crvq.tracking.events import LayerRow, RunListener
from crvq.vq.curvature import Curvature, CurvatureError

_WAY_OUT = (
    "Blocks done before lie packed on disk. The model's weights are damaged, or its activations "
    "too large: try activation_dtype=float32, or other calibration text"
)


@dataclass
class WalkSeconds:
    """Where the time of a walk went."""

    calibrate: float = 0.0
    quantize: float = 0.0


class BlockWalk:
    """Quantizes a model's blocks in order.

    Args:
        name: of the list of blocks in the model, for full names of linears.
        blocks: the blocks.
        stream: calibration activations in front of the first block.
        method: quantizes linears.
        store: packed blocks; the walk goes on from those that are there.
        config: the run's.
        listener: hears of progress.
    """

    def __init__(
        self,
        name: str,
        blocks: Sequence[nn.Module],
        stream: BlockStream,
        method: Method,
        store: BlockStore,
        config: RunConfig,
        listener: RunListener,
    ) -> None:
        self._name, self._blocks, self._stream = name, list(blocks), stream
        self._method, self._store, self._listener = method, store, listener
        self._seed, self._skip = config.seed, config.model.skip_linears
        self._quantized_stream = config.calibration.stream == "quantized"
        self.seconds = WalkSeconds()

    def run(self) -> None:
        """Quantize every block that is not stored yet; the model ends with quantized weights.

        Raises:
            QuantizationError: NaN or infinity in an input or a weight, with the linear's name.
        """
        done = self._store.whole_blocks()
        self._listener.stage_started("quantize", len(self._blocks))
        started = time.perf_counter()
        for index in range(len(self._blocks)):
            begun = time.perf_counter()
            if index < done:
                rows = self._restore(index)
                self._listener.block_quantized(index, rows, 0.0)
                self._listener.stage_advanced("quantize", f"block {index} was on disk")
                continue
            rows = self._quantize(index)
            seconds = time.perf_counter() - begun
            self._listener.block_quantized(index, rows, seconds)
            self._listener.stage_advanced("quantize", f"block {index}")
        self._listener.stage_finished("quantize", time.perf_counter() - started)

    def block_inputs(self, index: int) -> tuple[list[LinearInput], list[LinearSlot], list[Tensor]]:
        """A block's linears with the curvature of their inputs, and the block's outputs.

        The outputs are those of the weights as they are now (full precision).
        """
        slots = find_slots(self._blocks[index], self._skip)
        collector = InputCollector(slots)
        outputs = []
        batches = self._stream.outputs(index)
        for _ in range(len(self._stream)):
            with collector.collecting():
                outputs.append(next(batches))
        inputs, kept = [], []
        told: set[int] = set()
        curvatures: dict[int, Curvature] = {}
        for slot in slots:
            seen = collector.statistics(slot)
            full_name = f"{self._name}.{index}.{slot.kind}"
            if seen is None:
                self._tell_unused(full_name, slot, told)
                continue
            try:
                if id(seen) not in curvatures:
                    curvatures[id(seen)] = Curvature(seen.second_moment())
            except CurvatureError as error:
                raise QuantizationError(
                    f"the input of {full_name} cannot be used: {error}. {_WAY_OUT}"
                ) from error
            weight = slot.read()
            if not bool(torch.isfinite(weight).all()):
                raise QuantizationError(
                    f"the weight of {full_name} holds NaN or infinity: the model is damaged"
                )
            inputs.append(
                LinearInput(
                    name=full_name,
                    kind=slot.kind,
                    weight=weight,
                    curvature=curvatures[id(seen)],
                    seed=derived_seed(self._seed, full_name),
                    tokens=seen.tokens,
                )
            )
            kept.append(slot)
        return inputs, kept, outputs

    def _tell_unused(self, full_name: str, slot: LinearSlot, told: set[int]) -> None:
        """Say, once for all experts of a fused weight, that a linear is left alone."""
        if id(slot.parameter) in told:
            return
        told.add(id(slot.parameter))
        name = full_name if slot.expert is None else full_name.rpartition(".")[0]
        self._listener.message(
            f"{name} stays in full precision: its block does not apply it as a linear"
        )

    def use(self, method: Method) -> None:
        """Quantize with another method from now on (one fitted to `shapes`)."""
        self._method = method

    def shapes(self) -> list[LinearShape]:
        """The shapes of all linears of all blocks."""
        slots = (slot for block in self._blocks for slot in find_slots(block, self._skip))
        return [LinearShape(slot.kind, *slot.shape) for slot in slots]

    def survey(self) -> None:
        """Show the method the blocks that it asks for, in full precision; then start over."""
        wanted = set(self._method.survey_blocks(len(self._blocks)))
        if not wanted:
            return
        kinds: dict[str, int] = {}
        for kind, out_features, in_features in self.shapes():
            kinds[kind] = kinds.get(kind, 0) + out_features * in_features
        stored = self._store.load_shared()
        if stored is not None:
            self._method.survey([], kinds)
            self._method.restore_shared(stored)
            return
        first = list(self._stream.hidden)
        surveyed = []
        self._listener.stage_started("survey", max(wanted) + 1)
        started = time.perf_counter()
        for index in range(max(wanted) + 1):
            if index in wanted:
                inputs, _, self._stream.hidden = self.block_inputs(index)
                surveyed.append(inputs)
            else:
                self._stream.advance(index)
            self._listener.stage_advanced("survey", f"block {index}")
        self._stream.hidden = first
        self._method.survey(surveyed, kinds)
        self._store.save_shared(self._method.shared_tensors())
        self._listener.stage_finished("survey", time.perf_counter() - started)

    def _restore(self, index: int) -> list[LayerRow]:
        """Put a stored block in place and hand on the activations that it was followed by."""
        begun = time.perf_counter()
        if not self._quantized_stream:
            self._stream.advance(index)
        stored = self._store.load_block(index)
        for slot in find_slots(self._blocks[index], self._skip):
            if slot.kind in stored.weights:
                slot.write(stored.weights[slot.kind].dequantize())
        if self._quantized_stream:
            self._stream.advance(index)
        self.seconds.calibrate += time.perf_counter() - begun
        return stored.rows

    def _quantize(self, index: int) -> list[LayerRow]:
        begun = time.perf_counter()
        self._listener.note(f"block {index}: reading inputs")
        inputs, slots, outputs = self.block_inputs(index)
        by_kind = {slot.kind: slot for slot in slots}
        collected = time.perf_counter()
        self.seconds.calibrate += collected - begun
        results: list[QuantizedLinear] = []
        for result in self._method.quantize_block(index, inputs):
            results.append(result)
            self._listener.linear_quantized(_row(index, result))
        rows = [_row(index, result) for result in results]
        for result in results:
            by_kind[result.source.kind].write(result.weight.dequantize())
        self._store.save_block(
            index, {result.source.kind: result.weight for result in results}, rows
        )
        quantized = time.perf_counter()
        self.seconds.quantize += quantized - collected
        if not self._quantized_stream:
            self._stream.hidden = outputs
        elif index + 1 < len(self._blocks):
            self._stream.advance(index)
        self.seconds.calibrate += time.perf_counter() - quantized
        return rows


def _row(block: int, result: QuantizedLinear) -> LayerRow:
    bits, weights = result.weight.bits(), result.source.weight.numel()
    notes = list(result.notes)
    if result.source.tokens < result.source.weight.shape[1]:
        notes.append(f"saw only {result.source.tokens} calibration tokens")
    return LayerRow(
        block=block,
        name=result.source.name,
        kind=result.source.kind,
        out_features=result.source.weight.shape[0],
        in_features=result.source.weight.shape[1],
        critical_channels=result.critical_channels,
        loss=result.loss,
        relative_loss=result.relative_loss,
        rounds=result.rounds,
        seconds=result.seconds,
        bits=bits.total / weights,
        bit_parts=bits.as_dict(),
        notes="; ".join(notes),
    )
