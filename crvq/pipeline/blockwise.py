"""Quantization block by block: collect inputs, quantize, fine-tune, store, pass activations on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch import nn

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.errors import ConfigError, QuantizationError
from crvq.finetune.free_values import nothing_to_train
from crvq.methods import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.models.activations import HiddenStates
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import LinearSlot, find_slots
from crvq.models.output_gradients import squared_output_gradients
from crvq.models.second_moments import InputCollector
from crvq.pipeline.context import RunContext
from crvq.pipeline.corrected_targets import CorrectedTargets
from crvq.pipeline.division import divided
from crvq.pipeline.finetuning import BlockTuner
from crvq.pipeline.fingerprint import derived_seed
from crvq.pipeline.stored_model import put_block
from crvq.team import team
from crvq.tracking.events import LayerRow, training_from_dict
from crvq.vq.hessian import Hessian, HessianError
from crvq.weights.quantized import QuantizedWeight

_REMEDY = (
    "Completed blocks are stored. The model's weights are damaged, or its activations too large: "
    "try activation_dtype=float32, or other calibration text"
)


_SENSITIVITY_WINDOWS = 2
"""Two thousand tokens rank layers well: their gradients differ by orders of magnitude."""


class BlockwiseQuantizer:
    """Quantizes a model's blocks in order.

    Args:
        name: of the list of blocks in the model, for full names of linear layers.
        blocks: the blocks.
        stream: calibration activations in front of the first block.
        method: quantizes linear layers.
        store: packed blocks; those that are there are put in place.
        context: of the run.
    """

    def __init__(
        self,
        name: str,
        blocks: Sequence[nn.Module],
        stream: BlockStream,
        method: Method,
        store: BlockStore,
        context: RunContext,
    ) -> None:
        config = context.config
        self._name, self._blocks, self._stream = name, list(blocks), stream
        self._method, self._store, self._listener = method, store, context.listener
        self._residence = context.residence
        self._seed, self._skip = config.seed, config.model.skip_linears
        self._quantized_stream = config.calibration.stream == "quantized"
        self._tuner = BlockTuner(config, stream) if config.finetune.block is not None else None
        self._targets: CorrectedTargets | None = None
        if config.calibration.target_correction:
            self._targets = CorrectedTargets(
                stream, config.calibration.target_correction, config.calibration.target_damping
            )
        self._train_kinds = config.finetune.train
        collected = -(-config.calibration.samples // config.calibration.batch_size)
        self._collected = len(team().mine(collected))
        self._context = context
        self._sensitivities: dict[str, float] = {}
        """By full name; while the method prepares, and if it wants them."""
        self.seconds = {"calibrate": 0.0, "quantize": 0.0}
        """Seconds by stage."""
        if self._tuner is not None:
            self.seconds["finetune_block"] = 0.0

    def run(self) -> None:
        """Quantize every block that is not stored yet; the model ends with quantized weights.

        Raises:
            QuantizationError: NaN or infinity in an input or a weight, with the linear's name.
        """
        self._listener.stage_started("quantize", len(self._blocks))
        started = time.perf_counter()
        for index in range(len(self._blocks)):
            with self._residence.hold(index):
                self._quantize_or_restore(index)
        self._listener.stage_finished("quantize", time.perf_counter() - started)

    def _quantize_or_restore(self, index: int) -> None:
        begun = time.perf_counter()
        if self._store.holds(index):
            rows = self._restore(index)
            self._listener.block_quantized(index, rows, 0.0)
            self._listener.stage_advanced("quantize", f"block {index} was stored")
            return
        damaged = self._store.recorded_digest(index)
        rows = self._quantize(index)
        if damaged is not None and damaged != self._store.recorded_digest(index):
            # Later blocks were made from what this one was: they are made again too.
            for message in self._store.drop_after(index):
                self._listener.message(message)
        seconds = time.perf_counter() - begun
        self._listener.block_quantized(index, rows, seconds)
        self._listener.stage_advanced("quantize", f"block {index}")

    def block_inputs(
        self, index: int, *, keep_outputs: bool = False
    ) -> tuple[list[LinearInput], list[LinearSlot], HiddenStates]:
        """Return a block's linears with the Hessian of their inputs, and the block's outputs.

        The outputs are those of the weights as they are now (full precision); none where nothing
        in a run needs them, unless ``keep_outputs``.
        """
        slots = find_slots(self._blocks[index], self._skip)
        collector = InputCollector(slots)
        outputs = self._stream.hidden.empty()
        batches = self._stream.outputs(index)
        # Outputs of full-precision weights are targets of training, or the next block's inputs;
        # where they are neither, windows beyond those to collect need not be computed.
        kept_outputs = self._tuner is not None or not self._quantized_stream or keep_outputs
        count = len(self._stream)
        for batch in range(count if kept_outputs else min(count, self._collected)):
            # Windows beyond calibration.samples are there for fine-tuning alone.
            with collector.collecting() if batch < self._collected else nullcontext():
                output = next(batches)
            if kept_outputs:
                outputs.append(output)
        collector.add_up(team())
        inputs, kept = [], []
        warned: set[int] = set()
        hessians: dict[int, Hessian] = {}
        for slot in slots:
            seen = collector.statistics(slot)
            full_name = f"{self._name}.{index}.{slot.kind}"
            if seen is None:
                self._warn_unused(full_name, slot, warned)
                continue
            try:
                if id(seen) not in hessians:
                    hessians[id(seen)] = Hessian(seen.second_moment())
            except HessianError as error:
                raise QuantizationError(
                    f"the input of {full_name} cannot be used: {error}. {_REMEDY}"
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
                    hessian=hessians[id(seen)],
                    seed=derived_seed(self._seed, full_name),
                    tokens=seen.tokens,
                    sensitivity=self._sensitivities.get(full_name),
                )
            )
            kept.append(slot)
        return inputs, kept, outputs

    def _warn_unused(self, full_name: str, slot: LinearSlot, warned: set[int]) -> None:
        """Say once, for all experts of a fused weight, that a linear layer is left alone."""
        if id(slot.parameter) in warned:
            return
        warned.add(id(slot.parameter))
        name = full_name if slot.expert is None else full_name.rpartition(".")[0]
        self._listener.message(
            f"{name} stays in full precision: its block does not apply it as a linear"
        )

    def prepare(self) -> None:
        """Show the method the blocks that it asks for, in full precision; then rewind."""
        wanted = set(self._method.prepare_blocks(len(self._blocks)))
        if not wanted:
            return
        kinds: dict[str, int] = {}
        for kind, out_features, in_features in linear_shapes(self._blocks, self._skip):
            kinds[kind] = kinds.get(kind, 0) + out_features * in_features
        stored, plan = self._store.load_shared(), self._store.plan
        if stored is not None or plan is not None:
            self._method.prepare([], kinds)
            self._method.restore_shared(stored or {})
            self._method.restore_plan(plan or {})
            return
        first = self._stream.hidden
        self._stream.hidden = first.filled(first)
        shown = []
        self._listener.stage_started("prepare", max(wanted) + 1)
        started = time.perf_counter()
        if self._method.wants_sensitivity:
            self._sensitivities = self._measured_sensitivities(wanted)
        for index in range(max(wanted) + 1):
            with self._residence.hold(index):
                if index in wanted:
                    inputs, _, self._stream.hidden = self.block_inputs(index, keep_outputs=True)
                    shown.append(inputs)
                else:
                    self._stream.advance(index)
            self._listener.stage_advanced("prepare", f"block {index}")
        self._stream.hidden = first
        self._sensitivities = {}
        self._method.prepare(shown, kinds)
        if shared := self._method.shared_tensors():
            self._store.save_shared(shared)
        if plan := self._method.plan():
            self._store.save_plan(plan)
        self._listener.stage_finished("prepare", time.perf_counter() - started)

    def _measured_sensitivities(self, wanted: set[int]) -> dict[str, float]:
        """How the loss on a few calibration windows feels outputs of the blocks' linear layers."""
        context = self._context
        if context.residence.streamed:
            raise ConfigError(
                "crvq.allocation_objective=fisher needs gradients of the whole model, and its "
                "blocks are read from disk; set placement=device, or allocation_objective=relative"
            )
        modules = {
            f"{self._name}.{index}.{slot.kind}": slot.module
            for index in sorted(wanted)
            for slot in find_slots(self._blocks[index], self._skip)
            if slot.module is not None
        }
        assert context.texts.calibration is not None
        windows = context.texts.calibration[:_SENSITIVITY_WINDOWS]
        return squared_output_gradients(context.model, modules, windows, context.activation_dtype)

    def _restore(self, index: int) -> list[LayerRow]:
        """Put a stored block in place and pass on the activations that it led to."""
        begun = time.perf_counter()
        if self._tuner is not None:
            self._tuner.before_quantization(index)
        if not self._quantized_stream:
            self._stream.advance(index)
        if self._targets is not None:
            self._targets.advance(index)
        stored = self._store.load_block(index, ModelShapes.of(self._blocks[index], self._skip))
        put_block(self._blocks[index], stored, self._skip)
        self._follow(stored.weights)
        if stored.training is not None:
            self._listener.block_trained(index, *training_from_dict(stored.training))
        if self._quantized_stream:
            self._stream.advance(index)
        self.seconds["calibrate"] += time.perf_counter() - begun
        return stored.rows

    def _quantize(self, index: int) -> list[LayerRow]:
        begun = time.perf_counter()
        self._listener.note(f"block {index}: reading inputs")
        if self._tuner is not None:
            self._tuner.before_quantization(index)
        if self._targets is not None:
            self._targets.move(index, find_slots(self._blocks[index], self._skip), self._collected)
        inputs, slots, outputs = self.block_inputs(index)
        by_kind = {slot.kind: slot for slot in slots}
        collected = time.perf_counter()
        self.seconds["calibrate"] += collected - begun
        rows: list[LayerRow] = []
        weights: dict[str, QuantizedWeight] = {}
        # Written one by one, so that neither dense weights nor sources of a whole block are kept;
        # the method has its own copies of what is still to come.
        for row, weight in divided(self._method, index, inputs, _row):
            rows.append(row)
            weights[row.kind] = weight
            by_kind[row.kind].write(weight.dequantize())
            self._listener.linear_quantized(row)
        del inputs
        quantized = time.perf_counter()
        self.seconds["quantize"] += quantized - collected
        self._finetune(index, by_kind, weights, rows, outputs)
        tuned = time.perf_counter()
        if self._tuner is not None:
            self.seconds["finetune_block"] += tuned - quantized
        if not self._quantized_stream:
            self._stream.hidden = outputs
        elif index + 1 < len(self._blocks):
            self._stream.advance(index)
        self.seconds["calibrate"] += time.perf_counter() - tuned
        return rows

    def _finetune(
        self,
        index: int,
        slots: dict[str, LinearSlot],
        weights: dict[str, QuantizedWeight],
        rows: list[LayerRow],
        outputs: HiddenStates,
    ) -> None:
        """Train the block if that is asked for, and store it."""
        tuned = None
        if self._tuner is not None and weights:
            self._listener.note(f"block {index}: fine-tuning")
            together = [shared[0] for w in weights.values() if (shared := w.shared())]
            fixed = {name for name in together if self._store.serves_model(name)}
            tuned = self._tuner.tune(index, self._blocks[index], slots, weights, outputs, fixed)
            if tuned is None:
                raise ConfigError(nothing_to_train(self._train_kinds, "block by block"))
        if tuned is None:
            self._store.save_block(index, weights, rows)
            self._follow(weights)
            return
        training = {
            "summary": asdict(tuned.summary),
            "points": [asdict(point) for point in tuned.points],
        }
        weights = {**weights, **tuned.weights}
        self._store.save_block(index, weights, rows, tuned.others, training)
        self._follow(weights)
        self._listener.block_trained(index, tuned.summary, tuned.points)

    def _follow(self, weights: dict[str, QuantizedWeight]) -> None:
        self._method.on_block_stored(weights)


def linear_shapes(blocks: Sequence[nn.Module], skip: Sequence[str]) -> list[LinearShape]:
    """Return the shapes of all linear layers of all blocks.

    Args:
        blocks: of the model.
        skip: linear layers that stay in full precision (``model.skip_linears``).
    """
    slots = (slot for block in blocks for slot in find_slots(block, skip))
    return [LinearShape(slot.kind, *slot.shape) for slot in slots]


def linear_names(name: str, blocks: Sequence[nn.Module], skip: Sequence[str]) -> list[str]:
    """Return the full names of all linear layers, in the order of `linear_shapes`."""
    return [
        f"{name}.{index}.{slot.kind}"
        for index, block in enumerate(blocks)
        for slot in find_slots(block, skip)
    ]


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
        code_entropy=_per_weight(result.weight.entropy_bits(), weights),
        published_bits=_per_weight(result.weight.bits_as_published(), weights),
        critical_in_features=" ".join(map(str, result.critical_in_features)),
        notes="; ".join(notes),
    )


def _per_weight(bits: float | None, weights: int) -> float | None:
    return None if bits is None else bits / weights
