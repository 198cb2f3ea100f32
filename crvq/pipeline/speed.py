"""Speed of the model before quantization, and of the packed model that ``crvq export`` writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from crvq.checkpoint import BlockStore
from crvq.config import SpeedConfig
from crvq.errors import ConfigError
from crvq.evaluation.speed import Speed, generation_speed
from crvq.inference import QuantizedLinear, native
from crvq.inference.head import Head16
from crvq.inference.linear import share_reorders
from crvq.inference.model import linear_bytes
from crvq.models.blocks import find_slots
from crvq.models.load import context_limit
from crvq.pipeline.context import RunContext
from crvq.pipeline.run_folder import CHECKPOINT
from crvq.weights.additive import AdditiveWeight


class SpeedMeasure:
    """Tokens per second with a cache, batch 1, and bytes of the linear layers.

    Args:
        context: of the run.
        config: how much is timed.

    Raises:
        ConfigError: the model is not whole in memory, or its context is too short.
    """

    def __init__(self, context: RunContext, config: SpeedConfig) -> None:
        self._context, self._config = context, config
        if context.residence.streamed:
            raise ConfigError(
                "eval.speed: the model's blocks are read from disk for each pass, so that there "
                "is no speed to measure; set placement=device, or eval.speed=null"
            )
        total, limit = config.prompt_tokens + config.new_tokens, context_limit(context.model)
        if limit is not None and total > limit:
            raise ConfigError(
                f"eval.speed: {config.prompt_tokens} prompt tokens and {config.new_tokens} new "
                f"ones are more than the model's context of {limit}; set eval.speed.prompt_tokens="
                f"{max(1, limit - config.new_tokens)} or less"
            )

    def full_precision(self) -> None:
        """Time the model as it is before quantization."""
        self._record("full_precision", self._time("full precision"), *self._dense())

    def quantized(self) -> None:
        """Time the model with its packed linear layers in place of the dequantized ones."""
        with self._packed() as packed:
            speed = self._time("quantized")
            held = (linear_bytes(self._context.model), "packed") if packed else self._dense()
        self._record("quantized", speed, *held)

    def _time(self, label: str) -> Speed:
        context, config = self._context, self._config
        stage = f"speed of {label}"
        context.listener.stage_started(stage, config.repeats)
        begun = time.perf_counter()
        generator = torch.Generator().manual_seed(context.config.seed)
        vocabulary = int(context.model.config.get_text_config().vocab_size)
        speed = generation_speed(
            context.model,
            torch.randint(vocabulary, (1, config.prompt_tokens), generator=generator),
            config.new_tokens,
            config.repeats,
            context.device,
            context.activation_dtype,
            lambda: context.listener.stage_advanced(stage),
        )
        context.listener.stage_finished(stage, time.perf_counter() - begun)
        return speed

    def _dense(self) -> tuple[int, str]:
        """Return the bytes of the linear layers as the model holds them, and how they compute."""
        skip = self._context.config.model.skip_linears
        slots = [slot for block in self._context.blocks[1] for slot in find_slots(block, skip)]
        size = torch.empty((), dtype=self._context.activation_dtype).element_size()
        return sum(slot.shape[0] * slot.shape[1] for slot in slots) * size, "dense"

    @contextmanager
    def _packed(self) -> Iterator[bool]:
        """Put packed linear layers into the model for a while; False where a format has none."""
        context = self._context
        assert context.folder is not None
        store = BlockStore.read(context.folder / CHECKPOINT)
        swapped: list[tuple[nn.Module, str, nn.Module]] = []
        complete = True
        for index, block in enumerate(context.blocks[1]):
            for kind, weight in store.load_block(index).weights.items():
                dense = dict(block.named_modules()).get(kind)
                if not isinstance(weight, AdditiveWeight) or not isinstance(dense, nn.Linear):
                    complete = False
                    continue
                swapped.append((block, kind, dense))
                block.set_submodule(kind, QuantizedLinear.from_weight(weight, dense.bias))
        share_reorders(context.model)
        head = context.model.get_output_embeddings()
        if type(head) is nn.Linear and native.library() is not None:
            # An exported model's head has 16 bits, and so is read by half for each token.
            context.model.set_output_embeddings(Head16(head, head.weight.detach().bfloat16()))
        try:
            yield complete and bool(swapped)
        finally:
            context.model.set_output_embeddings(head)
            for block, kind, dense in swapped:
                block.set_submodule(kind, dense)

    def _record(self, which: str, speed: Speed, size: int, path: str) -> None:
        context = self._context
        result = {
            "prefill_tokens_per_second": speed.prefill,
            "decode_tokens_per_second": speed.decode,
            "linear_bytes": size,
            "path": path,
        }
        context.results.set_speed(
            prompt_tokens=self._config.prompt_tokens,
            new_tokens=self._config.new_tokens,
            threads=torch.get_num_threads(),
            activation_dtype=str(context.activation_dtype).removeprefix("torch."),
            **{which: result},
        )
