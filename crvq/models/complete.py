"""Check that a folder can be read as a model, and that the model holds exactly its tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crvq.errors import SourceError
from crvq.models.blocks import find_blocks

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_WAYS_OUT = "Try one of: model.path=ANOTHER_FOLDER_OR_GGUF, or model=smollm2-135m"


def check_model_folder(folder: Path) -> None:
    """Refuse a folder from which no model can be read.

    Raises:
        SourceError: the folder is missing, has no config.json, no safetensors weights (pickled
            ones are never read), or misses some of the shards that its index names. The message
            lists what the folder does hold.
    """
    if folder.is_file():
        raise SourceError(
            f"model.path={folder} is a file, not a folder; only .gguf files are read by "
            f"themselves. For safetensors set model.path={folder.parent}"
        )
    if not folder.is_dir():
        raise SourceError(
            f"model.path={folder}: there is no such folder or .gguf file. {_WAYS_OUT}"
        )
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SourceError(
            f"model.path={folder} cannot be read: {error.strerror}. {_WAYS_OUT}"
        ) from error
    holds = f"It holds: {', '.join(names[:20]) or 'nothing'}{' ...' if len(names) > 20 else ''}."
    if "config.json" not in names:
        ggufs = [name for name in names if name.endswith(".gguf")]
        hint = f" For the GGUF set model.path={folder / ggufs[0]}." if ggufs else ""
        raise SourceError(f"model.path={folder} has no config.json. {holds}{hint} {_WAYS_OUT}")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith(_PICKLED)]
        reason = (
            f"only pickled ones ({', '.join(pickled[:3])}), which can run code when they are read "
            "and are refused: convert them with save_pretrained in a place that you trust"
            if pickled
            else "none at all"
        )
        raise SourceError(
            f"model.path={folder} has no safetensors weights, {reason}. {holds} {_WAYS_OUT}"
        )
    _check_shards(folder, set(names), holds)


def _check_shards(folder: Path, names: set[str], holds: str) -> None:
    """Every shard that the index names must be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or "model.safetensors" in names:
        return
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"{index} cannot be read: {error!r}. {_WAYS_OUT}") from error
    if missing := sorted(shards - names):
        raise SourceError(
            f"model.path={folder} misses {len(missing)} of {len(shards)} shards: "
            f"{', '.join(missing[:5])}. {holds} {_WAYS_OUT}"
        )


_LISTED = 8


def check_complete(model: nn.Module, info: dict[str, Any], where: str) -> None:
    """Refuse a model with parameters that did not come from its files, or files with more blocks.

    transformers fills missing parameters with random numbers and leaves superfluous tensors out,
    and only warns of it; either way the result is another model than the one in the files.

    Args:
        model: from ``from_pretrained``.
        info: its loading info (``output_loading_info=True``).
        where: folder, file or repository, for the message.

    Raises:
        SourceError: missing tensors, tensors of another shape or without a value, or tensors of
            the model's blocks that the model has no parameter for. The message names them.
    """
    kind = type(model).__name__
    if missing := sorted(info.get("missing_keys") or ()):
        raise SourceError(
            f"the weights in {where} lack {len(missing)} tensors of a {kind}: {listed(missing)}. "
            "The checkpoint is cut, split, or of another architecture than its config says; get "
            "all of its files"
        )
    if mismatched := sorted(info.get("mismatched_keys") or ()):
        names = [str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in mismatched]
        raise SourceError(
            f"{len(names)} tensors in {where} have another shape than a {kind} of this config: "
            f"{listed(names)}; the config belongs to another checkpoint"
        )
    if failed := [*(info.get("error_msgs") or ()), *(info.get("conversion_errors") or ())]:
        raise SourceError(f"the weights in {where} cannot be read: {'; '.join(map(str, failed))}")
    if unused := _of_blocks(model, info.get("unexpected_keys") or ()):
        raise SourceError(
            f"{where} holds {len(unused)} tensors for the blocks of the model that a {kind} of "
            f"this config has no place for: {listed(unused)}. Its config.json belongs to another "
            "checkpoint (fewer layers, no biases, ...), and the model would compute something else"
        )
    if empty := [name for name, one in _tensors(model) if one.is_meta]:
        raise SourceError(f"{where} gives no values for {len(empty)} tensors: {listed(empty)}")


def check_finite(model: nn.Module, where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        SourceError: names the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and not _finite(tensor):
            raise SourceError(
                f"{name} of {where} holds NaN or infinity: the weights are damaged, or too "
                "large for model.dtype; get them again or set model.dtype=float32"
            )


def _finite(tensor: Tensor) -> bool:
    """Return whether there is no NaN or infinity, without a second tensor of the same size.

    Masks and absolute values of a vocabulary's embeddings were a run's peak of memory.
    """
    return all(math.isfinite(float(one)) for one in torch.aminmax(tensor))


def parameter_count(model: nn.Module) -> int:
    """Values in all parameters and persistent buffers, tied ones counted once."""
    held = {(one.data_ptr(), one.numel()): one.numel() for one in model.state_dict().values()}
    return sum(held.values())


def _of_blocks(model: nn.Module, unexpected: Any) -> list[str]:  # noqa: ANN401 - set or list
    """Unused tensors that belong to the stack of blocks; other towers and heads may be left out.

    transformers has already removed what the architecture is known to leave out (DeepSeek's
    extra prediction layer, GPT-2's stored masks, Llama's old rotary buffers).
    """
    try:
        prefix = f"{find_blocks(model)[0]}."
    except SourceError:
        return []
    return sorted(str(name) for name in unexpected if str(name).startswith(prefix))


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def listed(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
