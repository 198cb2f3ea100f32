"""Export a finished run, a result of the Python API, or a model that was loaded packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.errors import CheckpointError, ConfigError
from crvq.export.card import origin_of
from crvq.export.folder import check_out, save_quantized
from crvq.export.quantizer import CrvqQuantizer
from crvq.export.repack import quantized_weights
from crvq.methods.registry import method_quantizes
from crvq.models.blocks import find_blocks
from crvq.models.load import load_model
from crvq.pipeline.fingerprint import model_digest
from crvq.pipeline.run_folder import CHECKPOINT, finished_folder, recorded_config
from crvq.pipeline.stored_model import put_outer
from crvq.sources.cache import cache_folder
from crvq.tracking.record_schema import Record, load_record
from crvq.weights.quantized import QuantizedWeight

if TYPE_CHECKING:
    import torch

    from crvq.api import QuantizationResult


def export_run(
    run_folder: str | Path, out: str | Path, *, dense: bool = False, cache_dir: str | None = None
) -> Path:
    """Write a finished run's quantized model as a Hugging Face folder.

    The full-precision model is loaded once more for its unquantized tensors and its tokenizer.

    Args:
        run_folder: of the run, its ``checkpoint/``, or its record.
        out: must not exist, or be an empty folder.
        dense: write dequantized weights, for any other tool.
        cache_dir: downloads; None: as the run was configured, or the user's cache folder.

    Raises:
        ConfigError: the run is not finished, quantizes nothing, or there is something at ``out``.
        CheckpointError: packed blocks are missing or damaged, or the model is another one now.
    """
    folder = finished_folder(str(run_folder), "crvq export ")
    out = Path(out).expanduser()
    check_out(out)
    record = load_record(folder)
    if record.status != "complete":
        raise ConfigError(
            f"{folder}: this run is {record.status}; run the command that started it once more, it "
            "resumes, and export it then"
        )
    if not method_quantizes(record.method):
        raise ConfigError(f"{folder}: method={record.method} quantizes nothing")
    config = recorded_config(record)
    store = BlockStore.read(folder / CHECKPOINT)
    if store.digest() != record.result_digest:
        raise CheckpointError(
            f"{store.folder} does not hold the blocks that {folder} describes (result_digest "
            "differs); run the command that made the run with force=true"
        )
    loaded = load_model(config.model, cache_folder(cache_dir or config.cache_dir))
    if store.fingerprint.get("model_sha256") != model_digest(loaded.model):
        raise CheckpointError(
            f"the model that {folder} names is no longer the one that was quantized (the SHA-256 "
            "of weights and configuration differs)"
        )
    weights = stored_weights(loaded.model, store, config.model.skip_linears)
    return save_quantized(
        loaded.model, loaded.tokenizer, weights, out, origin_of(record), dense=dense
    )


def save_result(result: QuantizationResult, out: Path) -> Path:
    """Write a result of `crvq.quantize` as a Hugging Face folder; see `save_quantized`."""
    store = BlockStore.read(result.folder)
    weights = stored_weights(result.model, store)
    record = Record.model_validate(result.record)
    return save_quantized(result.model, result.tokenizer, weights, out, origin_of(record))


def save_loaded(model: PreTrainedModel, out: str | Path) -> Path:
    """Write a model from `crvq.load` again; unless it was trained, the same bytes.

    Raises:
        ConfigError: the model was not loaded from an exported folder.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if not isinstance(quantizer, CrvqQuantizer):
        raise ConfigError("the model was not loaded from a folder that crvq has written")
    weights = quantized_weights(model, quantizer.layout)
    tokenizer = getattr(model, "tokenizer", None)
    return save_quantized(model, tokenizer, weights, Path(out), quantizer.layout.origin)


def stored_weights(
    model: nn.Module, store: BlockStore, skip: Sequence[str] = ()
) -> dict[str, QuantizedWeight]:
    """Read all quantized weights of a store, and put its trained norms and biases into the model.

    Args:
        model: that was quantized; its linears' weights are left as they are.
        store: with every block of the model.
        skip: name endings of linears that stay in full precision.

    Returns:
        Weights by the linear's name in the model.

    Raises:
        CheckpointError: a block is missing, damaged, or of another model.
    """
    prefix, blocks = find_blocks(model)
    weights: dict[str, QuantizedWeight] = {}
    for index, block in enumerate(blocks):
        stored = store.load_block(index, ModelShapes.of(block, skip))
        weights |= {f"{prefix}.{index}.{kind}": one for kind, one in stored.weights.items()}
        _put(block, stored.others)
    put_outer(model, store)
    return weights


def _put(block: nn.Module, others: dict[str, torch.Tensor]) -> None:
    for name, value in others.items():
        block.get_parameter(name).data.copy_(value)
