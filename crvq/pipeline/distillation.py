"""End-to-end fine-tuning in a run: the teacher before the walk, the student after it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from crvq.checkpoint import BlockStore
from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.finetune.end_to_end import Distillation, distill
from crvq.finetune.free_values import (
    FreeValues,
    QuantizedSlot,
    norm_parameters,
    nothing_to_train,
)
from crvq.finetune.teacher import Student, Teacher, student_of
from crvq.finetune.training import TrainingState
from crvq.finetune.training_file import forget_training
from crvq.finetune.windows import end_to_end_windows
from crvq.models.linear_slots import find_slots
from crvq.models.load import LoadedModel
from crvq.pipeline.fingerprint import derived_seed, fingerprint, tensor_digest
from crvq.pipeline.stored_block import put_block, put_outer, store_trained
from crvq.tracking.events import RunListener, told_training

WALK_FOLDER = "checkpoint_before_end_to_end"
"""Where the walk's blocks lie when the model is trained as a whole after it."""
STATE_FILE = "finetune_state.safetensors"
_STAGE = "fine-tune end to end"


class EndToEndStage:
    """Distils the full-precision model into the quantized one.

    Args:
        config: the run's; ``finetune.end_to_end`` is set.
        loaded: the model; in full precision until `learn` is over.
        windows: all calibration and fine-tuning windows, ``(samples, length)``.
        weights: digest of the full-precision weights.
        activation_dtype: type of forward passes.
        cache: cache folder, where the teacher's predictions are kept for other runs.
        folder: the run's.
        listener: hears of progress.
    """

    def __init__(
        self,
        config: RunConfig,
        loaded: LoadedModel,
        windows: Tensor,
        weights: str,
        activation_dtype: torch.dtype,
        cache: Path,
        folder: Path,
        listener: RunListener,
    ) -> None:
        assert config.finetune.end_to_end is not None
        self._stage = config.finetune.end_to_end
        self._config, self._model = config, loaded.model
        self._dtype, self._folder, self._listener = activation_dtype, folder, listener
        train, validation = end_to_end_windows(windows, config.finetune, config.calibration)
        self._windows, self._train = torch.cat([train, validation]), len(train)
        self._device = next(loaded.model.parameters()).device
        self._fingerprint = fingerprint(
            config, weights, windows, activation_dtype, self._device.type
        )
        key = self._teacher_key(weights)
        self._teacher = Teacher(
            cache / "teacher" / key, self._stage.teacher, self._stage.top_k, self._device
        )

    @cached_property
    def _student(self) -> Student:
        return student_of(self._model, self._windows[:1].to(self._device))

    def learn(self) -> None:
        """Keep what the full-precision model predicts; before any of its weights is changed."""
        missing = self._teacher.missing(self._windows)
        if not missing:
            return
        self._listener.stage_started("teacher's predictions", len(missing))
        begun = time.perf_counter()
        for index in missing:
            self._teacher.learn(self._student, self._windows, index, self._dtype)
            self._listener.stage_advanced("teacher's predictions")
        self._listener.stage_finished("teacher's predictions", time.perf_counter() - begun)

    def run(self, name: str, blocks: Sequence[nn.Module], walked: BlockStore) -> BlockStore:
        """Train the walked model, or restore it where that was done.

        Args:
            name: of the list of blocks in the model.
            blocks: the blocks, with the walk's quantized weights in them.
            walked: the walk's store, complete.

        Returns:
            The store of the trained model.
        """
        made_from = {**self._fingerprint, "walked_blocks": walked.digest()}
        store, dropped = BlockStore.open(
            self._folder / "checkpoint", made_from, fresh=self._config.force
        )
        if dropped is not None:
            self._listener.message(dropped)
        if store.whole_blocks() < len(blocks) or store.training is None:
            self._train_model(name, blocks, walked, store, made_from)
        else:
            for index, block in enumerate(blocks):
                put_block(block, store.load_block(index), self._config.model.skip_linears)
            put_outer(self._model, store)
        assert store.training is not None
        self._listener.model_trained(*told_training(store.training))
        return store

    def _train_model(
        self,
        name: str,
        blocks: Sequence[nn.Module],
        walked: BlockStore,
        store: BlockStore,
        made_from: dict[str, object],
    ) -> None:
        free = self._free_values(blocks, walked)
        if not free.leaves:
            raise ConfigError(nothing_to_train(self._config.finetune.train, "end to end"))
        steps = self._config.finetune.end_to_end_steps(self._config.calibration)
        task = Distillation(
            self._student,
            blocks,
            self._teacher,
            self._windows,
            self._train,
            self._stage,
            self._dtype,
            self._device,
            derived_seed(self._config.seed, "finetune/end_to_end"),
        )
        identity = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        path = self._folder / STATE_FILE
        if self._config.force:
            forget_training(path)
        begun = time.perf_counter()
        starts, tells = self._goes_on(steps), self._listener.message
        done = distill(free, task, steps, path, identity, starts, self._told, tells)
        self._listener.stage_finished(_STAGE, time.perf_counter() - begun)
        best = done.state.best
        weights = free.weights(best) if best is not None else {}
        others = free.others(best) if best is not None else {}
        told = {
            "summary": asdict(done.summary),
            "points": [asdict(point) for point in done.state.points],
        }
        store_trained(name, len(blocks), walked, store, weights, others, told)

    def _goes_on(self, steps: int) -> Callable[[int], None]:
        def start(step: int) -> None:
            self._listener.stage_started(_STAGE, steps)
            for _ in range(step):
                self._listener.stage_advanced(_STAGE)
            if step:
                self._listener.message(f"end-to-end fine-tuning goes on after {step} steps")

        return start

    def _told(self, state: TrainingState) -> None:
        point = state.points[-1]
        perplexity = point.validation_perplexity
        beside = "" if perplexity is None else f", perplexity {perplexity:.1f}"
        note = f"validation loss {point.validation_loss:.4f}{beside}"
        self._listener.stage_advanced(_STAGE, note)

    def _free_values(self, blocks: Sequence[nn.Module], walked: BlockStore) -> FreeValues:
        linears = []
        for index, block in enumerate(blocks):
            stored = walked.load_block(index).weights
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
        return FreeValues(linears, norms, self._config.finetune.train, self._stage.relative_rate)

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
