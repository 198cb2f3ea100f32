"""Quantize a run's model, or put its stored blocks in place; make damaged blocks again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crvq.checkpoint import BlockStore
from crvq.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from crvq.errors import CheckpointError, QuantizationError
from crvq.files.digests import file_digest
from crvq.finetune.curve import CurvePoint
from crvq.finetune.end_to_end import blockwise_windows
from crvq.models.block_stream import BlockStream
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.context import RunContext
from crvq.pipeline.failures import memory_advice
from crvq.pipeline.finetuning import EndToEndStage
from crvq.pipeline.fingerprint import ROUNDING_ONLY, fingerprint
from crvq.pipeline.run_folder import ATTEMPTS, BEFORE_END_TO_END, CHECKPOINT, STATE_FILE
from crvq.pipeline.stored_model import from_store, restore_model
from crvq.team import check_share, team
from crvq.tracking.csv_files import FINETUNE_FILE, LAYERS_FILE, write_finetune, write_layers
from crvq.tracking.events import LayerRow, Listeners, training_from_dict
from crvq.tracking.record_schema import RecordError, load_record
from crvq.tracking.record_values import RecordValues
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
    windows = blockwise_windows(context.texts.calibration, config.finetune, config.calibration)
    name, blocks = context.blocks
    made_from = fingerprint(
        config,
        context.weights,
        windows,
        context.activation_dtype,
        context.device.type,
        context.fitted,
    )
    store, message = open_store(
        context.folder / (CHECKPOINT if end_to_end is None else BEFORE_END_TO_END), made_from
    )
    if message is not None:
        context.listener.message(message)
    stored = [index for index in range(len(blocks)) if store.holds(index)]
    results.keep_blocks(stored)
    if stored:
        context.listener.message(f"resuming with {len(stored)} completed blocks")
    stream = BlockStream(
        context.model,
        blocks,
        _share_of(windows, config.calibration.batch_size),
        config.calibration.batch_size,
        context.activation_dtype,
        context.residence,
    )
    quantizer = BlockwiseQuantizer(name, blocks, stream, context.method, store, context)
    quantizer.prepare()
    results.set_effective(**{**context.fitted, **context.method.effective(context.shapes)})
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
                store = _trained(end_to_end, name, blocks, store, context)
        finally:
            results.add_seconds("finetune_end_to_end", time.perf_counter() - begun)
    context.residence.follow(from_store(store, config.model.skip_linears))
    _record_bits(context, store)
    return store


def open_store(folder: Path, made_from: dict[str, Any]) -> tuple[BlockStore, str | None]:
    """Open a run's store; other processes than process 0 work on a copy of their own."""
    if team().rank:
        first = Path(team().share(b"").decode())
        if first.is_dir():
            shutil.copytree(first, folder)
        return BlockStore.open(folder, made_from, tolerated=ROUNDING_ONLY)
    opened = BlockStore.open(folder, made_from, tolerated=ROUNDING_ONLY)
    team().share(str(folder.absolute()).encode())
    return opened


def _trained(
    stage: EndToEndStage,
    name: str,
    blocks: Sequence[nn.Module],
    store: BlockStore,
    context: RunContext,
) -> BlockStore:
    """Train the whole model; other processes help and take over what process 0 stored."""
    assert context.folder is not None
    if team().rank == 0:
        trained = stage.run(name, blocks, store)
        team().share(str(trained.folder.absolute()).encode())
        return trained
    stage.help(name, blocks, store)
    first = Path(team().share(b"").decode())
    shutil.copytree(first, context.folder / CHECKPOINT, dirs_exist_ok=True)
    trained = BlockStore.read(context.folder / CHECKPOINT)
    restore_model(context.model, trained, context.config.model.skip_linears)
    return trained


def _share_of(windows: Tensor, batch_size: int) -> Tensor:
    """Return this process's batches of windows."""
    if team().size == 1:
        return windows
    batches = windows.split(batch_size)
    check_share(
        len(batches),
        f"batches of calibration.batch_size={batch_size} windows",
        "set calibration.batch_size=1, or calibration.samples to more",
    )
    return torch.cat([batches[index] for index in team().mine(len(batches))])


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


def repair_files(folder: Path) -> None:
    """Write a finished run's damaged ``layers.csv`` and ``finetune.csv`` again.

    Both are in the manifest of its packed blocks too.

    Raises:
        RecordError: a file is damaged, and what it is made from is gone.
    """
    record = load_record(folder)
    for name, digest in record.files.items():
        if _digest(folder / name) == digest:
            continue
        made = folder / f".{name}.repaired"
        manifest = _manifest(folder)
        if manifest is not None and name == LAYERS_FILE:
            write_layers(made, _rows(manifest))
        elif manifest is not None and name == FINETUNE_FILE:
            write_finetune(made, _points(manifest))
        if _digest(made) != digest:
            made.unlink(missing_ok=True)
            raise RecordError(
                f"{folder / name} is damaged (its digest is not the one in the record), and it "
                "cannot be made from the packed blocks. Run the same command with force=true: the "
                "present record is kept until the new one is complete"
            )
        os.replace(made, folder / name)


def damaged_files(store: BlockStore) -> list[str]:
    """Return the names of the store's files that are missing or damaged."""
    return [file.file for file in store.files() if not store.is_intact(file)]


def repair_blocks(folder: Path, context: RunContext) -> list[str]:
    """Quantize the damaged blocks of a finished run again, next to it.

    The intact blocks are put in place and the others computed from them; the result must be
    bit-identical to what the record says before a file of the run is replaced.

    Args:
        folder: of the finished run.
        context: of that run, with its model in full precision. It ends quantized.

    Returns:
        Names of the files that were replaced; empty if none was damaged.

    Raises:
        CheckpointError: the same blocks cannot be computed here.
    """
    store = BlockStore.read(folder / CHECKPOINT)
    damaged = damaged_files(store)
    if not damaged:
        return []
    record = load_record(folder)
    side = folder.parent / ATTEMPTS / f"{folder.name}.repair"
    shutil.rmtree(side, ignore_errors=True)  # links and remade blocks of an interrupted repair
    for name in (CHECKPOINT, BEFORE_END_TO_END):
        if (folder / name).is_dir():
            _link_intact(BlockStore.read(folder / name), side / name)
    if (folder / STATE_FILE).exists():
        _link(folder / STATE_FILE, side / STATE_FILE)
    context.listener.message(
        f"{', '.join(damaged)} of the finished run is damaged: making it again"
    )
    repairing = replace(context)
    values = RecordValues(record.model_copy(deep=True))
    repairing.open(values, Listeners(values, context.listener), side)
    made = quantize(repairing)
    if made.digest() != record.result_digest:
        raise CheckpointError(
            f"{', '.join(damaged)} in {folder / CHECKPOINT} is damaged, and what this machine "
            f"computes in its place is not bit-identical (the run was made with "
            f"{record.threads} threads on {record.cpu or record.device}). The other blocks are "
            "intact and kept. To have a complete result again, run the command that made the run "
            "with force=true: the present record is kept until the new one is complete"
        )
    for name in damaged:
        os.replace(side / CHECKPOINT / name, folder / CHECKPOINT / name)
    shutil.rmtree(side)
    return damaged


def _digest(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder / CHECKPOINT)
    except CheckpointError:
        return None


def _rows(manifest: Manifest) -> list[LayerRow]:
    """Return the rows of all blocks, in order."""
    blocks = [manifest.blocks[index] for index in sorted(manifest.blocks)]
    return [LayerRow(**row) for block in blocks for row in block.rows]


def _points(manifest: Manifest) -> list[CurvePoint]:
    """Return all points of the loss curves, in the order in which a run records them."""
    stored = [manifest.blocks[index].training for index in sorted(manifest.blocks)]
    trained = [one for one in [*stored, manifest.training] if one is not None]
    return [point for one in trained for point in training_from_dict(one)[1]]


def _link_intact(store: BlockStore, target: Path) -> None:
    for file in store.files():
        if store.is_intact(file):
            _link(store.folder / file.file, target / file.file)
    _link(store.folder / MANIFEST_FILE, target / MANIFEST_FILE)


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where links are not possible; files are replaced, never changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
