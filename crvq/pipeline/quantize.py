"""The quantization of a whole model: block by block, then as a whole, then its bits."""

from __future__ import annotations

import time
from collections.abc import Sequence

from crvq.checkpoint import BlockStore
from crvq.errors import QuantizationError
from crvq.finetune.windows import walk_windows
from crvq.models.block_stream import BlockStream
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.context import RunContext
from crvq.pipeline.end_to_end import BEFORE_END_TO_END, EndToEndStage
from crvq.pipeline.failures import memory_advice
from crvq.pipeline.fingerprint import ROUNDING_ONLY, fingerprint
from crvq.pipeline.run_folder import CHECKPOINT
from crvq.tracking.events import LayerRow
from crvq.weights.bits import BitCount

UNQUANTIZED_BITS = 16
"""Bits that a weight which is not quantized counts as: half precision, as models are published."""


def quantize(context: RunContext) -> BlockStore:
    """Quantize the context's model in place, and store its packed blocks.

    Blocks that are stored already, by an attempt that was killed, are put in place instead.

    Returns:
        The store of the quantized model.

    Raises:
        QuantizationError: an input or weight that is not finite, or a device out of memory.
    """
    config, results = context.config, context.results
    assert context.texts.calibration is not None
    assert context.folder is not None
    end_to_end = _prepared_end_to_end(context)
    begun = time.perf_counter()
    windows = walk_windows(context.texts.calibration, config.finetune, config.calibration)
    name, blocks = context.blocks
    made_from = fingerprint(
        config,
        context.weights,
        windows,
        context.activation_dtype,
        context.device.type,
        context.fitted,
    )
    store, message = BlockStore.open(
        context.folder / (CHECKPOINT if end_to_end is None else BEFORE_END_TO_END),
        made_from,
        tolerated=ROUNDING_ONLY,
    )
    if message is not None:
        context.listener.message(message)
    stored = [index for index in range(len(blocks)) if store.holds(index)]
    results.keep_blocks(stored)
    if stored:
        context.listener.message(f"resuming with {len(stored)} completed blocks")
    stream = BlockStream(
        context.model, blocks, windows, config.calibration.batch_size, context.activation_dtype
    )
    quantizer = BlockwiseQuantizer(name, blocks, stream, context.method, store, context)
    results.set_effective(**{**context.fitted, **context.method.effective(context.shapes)})
    quantizer.prepare()
    results.add_seconds("calibrate", time.perf_counter() - begun)
    try:
        with memory_advice(config, "block", context.device):
            quantizer.run()
    finally:
        for stage, seconds in quantizer.seconds.items():
            results.add_seconds(stage, seconds)
    if end_to_end is not None:
        begun = time.perf_counter()
        try:
            with memory_advice(config, "end_to_end", context.device):
                store = end_to_end.run(name, blocks, store)
        finally:
            results.add_seconds("finetune_end_to_end", time.perf_counter() - begun)
    _record_bits(context, store)
    return store


def _prepared_end_to_end(context: RunContext) -> EndToEndStage | None:
    """The end-to-end stage, with the full-precision model's predictions; None if not asked for."""
    if context.config.finetune.end_to_end is None:
        return None
    begun = time.perf_counter()
    stage = EndToEndStage(context)
    stage.learn()
    context.results.add_seconds("teacher", time.perf_counter() - begun)
    return stage


def _record_bits(context: RunContext, store: BlockStore) -> None:
    results = context.results
    parts = BitCount()
    quantized = 0
    for row in results.layer_rows:
        parts += BitCount(**row.bit_parts)
        quantized += row.out_features * row.in_features
    if not quantized:
        raise QuantizationError(
            "no linear layer could be quantized; the notes of the record say why for each of them"
        )
    every = sum(parameter.numel() for parameter in context.model.parameters())
    results.set_bits(
        parts.as_dict(),
        quantized_weights=quantized,
        all_weights=every,
        other_weights_bits=float((every - quantized) * UNQUANTIZED_BITS),
        codes_entropy=_total(results.layer_rows, "code_entropy"),
    )
    published = _total(results.layer_rows, "published_bits")
    if published is not None:
        results.set_effective(bits_as_published=published / quantized)
    results.set("packed_bytes", store.tensor_bytes)
    results.set("result_digest", store.digest())


def _total(rows: Sequence[LayerRow], column: str) -> float | None:
    """Return the bits of a column of averages over all weights; None where a row has none."""
    averages = [getattr(row, column) for row in rows]
    if any(average is None for average in averages):
        return None
    sizes = [row.out_features * row.in_features for row in rows]
    return float(sum(size * average for size, average in zip(sizes, averages, strict=True)))
