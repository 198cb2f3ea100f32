"""Fine-tuning in a run: each block after it is quantized, and the model as a whole at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.files.atomic import move_aside
from crvq.files.digests import values_digest
from crvq.finetune.block import BlockBatches, TunedBlock, finetune_block
from crvq.finetune.dense_weights import WHOLE, DenseWeights
from crvq.finetune.end_to_end import Distillation, Distilled, distill, end_to_end_windows
from crvq.finetune.free_values import (
    FreeValues,
    QuantizedSlot,
    Snapshot,
    norm_parameters,
    nothing_to_train,
)
from crvq.finetune.sharded import SHARDED, maybe_sharded
from crvq.finetune.teacher import Student, Teacher, student_of
from crvq.finetune.training import TrainingState
from crvq.finetune.training_file import is_of_another_training
from crvq.models.activations import HiddenStates
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import LinearSlot, find_slots
from crvq.pipeline.context import RunContext
from crvq.pipeline.fingerprint import ROUNDING_ONLY, derived_seed, fingerprint, tensor_digest
from crvq.pipeline.run_folder import CHECKPOINT, STATE_FILE
from crvq.pipeline.stored_model import put_block, put_outer, store_trained
from crvq.team import team
from crvq.tracking.events import training_from_dict
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
        self._count = int(team().total([len(stream)])[0])
        self._passes = config.finetune.block.batch_size // passed
        apart = config.calibration.stream == "quantized"
        self._follows_model = apart and config.finetune.block.targets == "model"
        self._reference: HiddenStates | None = None

    def before_quantization(self, index: int) -> None:
        """Take the full-precision model's own activations past the block, if they are targets."""
        if not self._follows_model:
            return
        hidden = self._reference if self._reference is not None else self._stream.hidden
        with torch.no_grad():
            self._reference = self._stream.hidden.filled(
                self._stream.output(index, batch, one) for batch, one in enumerate(hidden)
            )

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
            count=self._count,
        )
        linears = [QuantizedSlot(kind, slots[kind], weight) for kind, weight in weights.items()]
        seed = derived_seed(self._seed, f"finetune/{index}")
        return finetune_block(
            index, block, linears, batches, self._config, self._passes, seed, fixed_sets
        )


_STAGE = "fine-tune end to end"


class EndToEndStage:
    """Distils the full-precision model into the quantized one.

    Args:
        context: of the run; its model is in full precision until `learn` is over.
    """

    def __init__(self, context: RunContext) -> None:
        config = context.config
        assert config.finetune.end_to_end is not None
        assert context.texts.calibration is not None
        assert context.folder is not None
        self._stage = config.finetune.end_to_end
        self._config, self._model = config, context.model
        self._dtype, self._device = context.activation_dtype, context.device
        self._folder, self._listener = context.folder, context.listener
        windows = context.texts.calibration
        train, validation = end_to_end_windows(windows, config.finetune, config.calibration)
        self._windows, self._train_windows = torch.cat([train, validation]), len(train)
        self._fingerprint = fingerprint(
            config, context.weights, windows, context.activation_dtype, self._device.type
        )
        key = self._teacher_key(context.weights)
        self._teacher = Teacher(
            context.cache / "teacher" / key, self._stage.teacher, self._stage.top_k, self._device
        )

    @cached_property
    def _student(self) -> Student:
        return student_of(self._model, self._windows[:1].to(self._device))

    def learn(self) -> None:
        """Keep what the full-precision model predicts; before any of its weights is changed.

        The processes of a team divide the windows, and each then asks again about what others did
        not leave where it can read it (on another machine).
        """
        missing = self._teacher.missing(self._windows)
        self._ask([index for index in missing if team().local(index) is not None])
        team().total([0.0])  # all wait for all
        self._ask(self._teacher.missing(self._windows))

    def _ask(self, missing: Sequence[int]) -> None:
        if not missing:
            return
        self._listener.stage_started("teacher's predictions", len(missing))
        begun = time.perf_counter()
        for index in missing:
            self._teacher.learn(self._student, self._windows, index, self._dtype)
            self._listener.stage_advanced("teacher's predictions")
        self._listener.stage_finished("teacher's predictions", time.perf_counter() - begun)

    def run(self, name: str, blocks: Sequence[nn.Module], before: BlockStore) -> BlockStore:
        """Train the quantized model, or put its trained blocks in place where that was done.

        Args:
            name: of the list of blocks in the model.
            blocks: the blocks, with quantized weights in them.
            before: the store of these weights, complete.

        Returns:
            The store of the trained model.
        """
        made_from = {**self._fingerprint, "blocks_before": before.digest()}
        store, message = BlockStore.open(
            self._folder / CHECKPOINT, made_from, tolerated=ROUNDING_ONLY
        )
        if message is not None:
            self._listener.message(message)
        intact = store.whole_blocks() == len(blocks) and store.outer_is_intact()
        stored = intact and store.training is not None
        together = not stored and self._divides
        team().agree(together)
        if not stored:
            training, best = self._train(name, blocks, before, made_from, together)
            weights = best.weights if best is not None else {}
            others = best.others if best is not None else {}
            store_trained(name, len(blocks), before, store, weights, others, training)
        else:
            for index, block in enumerate(blocks):
                skip = self._config.model.skip_linears
                put_block(block, store.load_block(index, ModelShapes.of(block, skip)), skip)
            put_outer(self._model, store)
        assert store.training is not None
        self._listener.model_trained(*training_from_dict(store.training))
        return store

    def help(self, name: str, blocks: Sequence[nn.Module], before: BlockStore) -> None:
        """Take part in process 0's training, if it divides it; see `run`."""
        if team().agree(False):
            made_from = {**self._fingerprint, "blocks_before": before.digest()}
            self._train(name, blocks, before, made_from, together=True)

    @property
    def _divides(self) -> bool:
        """Codes change in one process only."""
        return team().size > 1 and self._stage.codes is None

    @property
    def _shards(self) -> bool:
        if self._stage.sharding == "auto":
            return self._device.type == "cuda"
        return self._stage.sharding == "fsdp"

    def _train(
        self,
        name: str,
        blocks: Sequence[nn.Module],
        before: BlockStore,
        made_from: dict[str, object],
        together: bool,
    ) -> tuple[dict[str, Any], Snapshot | None]:
        """Return summary and loss curve, as JSON can hold them, and the best state."""
        student = self._student  # taken apart before its blocks are divided
        sharded = together and self._shards
        with maybe_sharded(sharded, self._model, name, blocks, self._device) as trained:
            free = self._free_values(trained, before, SHARDED if sharded else WHOLE)
            if not free.leaves:
                raise ConfigError(nothing_to_train(self._config.finetune.train, "end to end"))
            task = Distillation(
                student,
                trained,
                self._teacher,
                self._windows,
                self._train_windows,
                self._stage,
                self._dtype,
                self._device,
                derived_seed(self._config.seed, "finetune/end_to_end"),
                together,
            )
            done = self._distill(task, free, made_from, together)
        training = {
            "summary": asdict(done.summary),
            "points": [asdict(point) for point in done.state.points],
        }
        return training, done.state.best

    def _distill(
        self, task: Distillation, free: FreeValues, made_from: dict[str, object], together: bool
    ) -> Distilled:
        steps = self._config.finetune.end_to_end_steps(self._config.calibration)
        # A state resumes although sums round differently; the blocks' own message says so.
        identity = values_digest(
            {key: value for key, value in made_from.items() if key not in ROUNDING_ONLY}
        )
        path = self._folder / STATE_FILE
        if together:
            path = Path(team().share(str(path.absolute()).encode()).decode())
        if team().rank == 0 and is_of_another_training(path, identity):
            kept = move_aside(path, self._folder)
            self._listener.message(
                f"the saved training started from other blocks: starting over, it is kept in {kept}"
            )
        begun = time.perf_counter()
        done = distill(
            free,
            task,
            steps,
            path,
            identity,
            self._on_start(steps),
            self._on_step,
            self._listener.message,
        )
        self._listener.stage_finished(_STAGE, time.perf_counter() - begun)
        return done

    def _on_start(self, steps: int) -> Callable[[int], None]:
        def start(step: int) -> None:
            self._listener.stage_started(_STAGE, steps)
            for _ in range(step):
                self._listener.stage_advanced(_STAGE)
            if step:
                self._listener.message(f"resuming end-to-end fine-tuning after {step} steps")

        return start

    def _on_step(self, state: TrainingState) -> None:
        point = state.points[-1]
        perplexity = point.validation_perplexity
        more = "" if perplexity is None else f", perplexity {perplexity:.1f}"
        note = f"validation loss {point.validation_loss:.4f}{more}"
        self._listener.stage_advanced(_STAGE, note)

    def _free_values(
        self, blocks: Sequence[nn.Module], before: BlockStore, dense: DenseWeights
    ) -> FreeValues:
        linears = []
        for index, block in enumerate(blocks):
            stored = before.load_block(index).weights
            linears += [
                QuantizedSlot(f"{index}.{slot.kind}", slot, stored[slot.kind])
                for slot in find_slots(block, self._config.model.skip_linears)
                if slot.kind in stored
            ]
        norms = norm_parameters(self._model)
        head = self._model.get_output_embeddings()
        for parameter in head.parameters() if head is not None else ():
            # The teacher's predictions go through the head as well.
            norms = {key: one for key, one in norms.items() if one is not parameter}
        return FreeValues(
            linears,
            norms,
            self._config.finetune.train,
            self._stage.relative_rate,
            codes=self._stage.codes is not None,
            dense=dense,
        )

    def _teacher_key(self, weights: str) -> str:
        parts = [
            weights,
            tensor_digest(self._windows),
            str(self._dtype),
            self._device.type,
            self._stage.teacher,
            self._stage.top_k if self._stage.teacher == "top_k" else None,
            torch.__version__,
            transformers.__version__,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
