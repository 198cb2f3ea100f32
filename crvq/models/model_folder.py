"""What a local model folder must hold, checked before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from crvq.errors import SourceError

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
