"""Checks of a folder's files against its config, before a tensor is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from crvq.errors import CheckpointError
from crvq.export.layout import Layout
from crvq.models.digest import tensor_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
_MOST_JSON = 1 << 26
"""Bytes of a JSON file; config.json of a 70B takes about 400 KB."""
_MOST_MODULES = 1 << 16
_LAYERS = re.compile(r"(num|n)_(\w+_)?layers?")
"""Keys of how many blocks a model has."""
_DTYPES = {"float16": "F16", "bfloat16": "BF16"}


def read_layout(folder: Path) -> Layout:
    """Read and check config.json of an exported folder.

    Raises:
        CheckpointError: there is none, it is another method's, newer, damaged, or describes a model
            with more layers than the folder has tensors.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; give one that `crvq export` has written")
    config = _read_json(folder / CONFIG_FILE)
    try:
        layout = Layout.read(config.get("quantization_config"))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    # The model's modules are made before its shapes can be compared with the files.
    for key, value in _numbers(config):
        most = len(layout.digests) if _LAYERS.fullmatch(key) else _MOST_MODULES
        if key.startswith(("num_", "n_")) and value > most:
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: {key}={value}, but the folder has {len(layout.digests)} "
                "tensors: config and weights are of different models"
            )
    return layout


def check_files(files: Sequence[str], layout: Layout, model: PreTrainedModel) -> None:
    """Check names, shapes, types and digests of all stored tensors, one tensor at a time.

    Args:
        files: the folder's safetensors files.
        layout: of the folder.
        model: on the meta device, with a place for each packed tensor.

    Raises:
        CheckpointError: a tensor is missing, unexpected, damaged, or does not fit the model.
    """
    expected = _expected(layout, model)
    places: dict[str, str] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise CheckpointError(f"{file}: only safetensors files are read")
        _check_headers(file, expected, places)
    if missing := sorted(expected.keys() - places.keys()):
        raise CheckpointError(f"the weights lack {len(missing)} tensors: {_some(missing)}")
    if differing := sorted(places.keys() ^ layout.digests.keys()):
        raise CheckpointError(
            f"quantization_config has no digest, or no tensor: {_some(differing)}"
        )
    for file in files:
        _check_digests(file, layout.digests)


def _expected(layout: Layout, model: PreTrainedModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and safetensors type of every tensor that the model needs."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    stored = _DTYPES[layout.unquantized_dtype]
    state: dict[str, Tensor] = model.state_dict()
    return {
        name: (tuple(one.shape), stored if one.is_floating_point() else _code(one))
        for name, one in state.items()
        if name not in tied
    }


def _check_headers(
    file: str, expected: Mapping[str, tuple[tuple[int, ...], str]], places: dict[str, str]
) -> None:
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                part = opened.get_slice(name)
                seen = tuple(part.get_shape()), part.get_dtype()
                if name not in expected or name in places:
                    raise CheckpointError(
                        f"{file}: {name!a:.120}: the model has no place for this tensor"
                    )
                if seen != expected[name]:
                    raise CheckpointError(
                        f"{file}: {name!a:.120}: {seen[1]} {seen[0]}, while config.json says "
                        f"{expected[name][1]} {expected[name][0]}"
                    )
                places[name] = file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged, cut, or no safetensors file: {error}") from error


def _check_digests(file: str, digests: Mapping[str, str]) -> None:
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dictionary
            if tensor_digest(opened.get_tensor(name).reshape(-1)) != digests[name]:
                raise CheckpointError(
                    f"{file}: {name!a:.120} does not have the SHA-256 that config.json states: the "
                    "file is damaged; get it again, or export the run again"
                )


def check_shards(folder: Path) -> None:
    """Check that all weights are files of the folder itself.

    Raises:
        CheckpointError: a shard is missing or outside, or there are no safetensors files.
    """
    index = folder / INDEX_FILE
    names = [WEIGHTS_FILE]
    if index.is_file() and not (folder / WEIGHTS_FILE).exists():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{index} has no weight_map")
        names = sorted({str(one) for one in shards.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no file {name!a:.120}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise CheckpointError(f"{path} is larger than {_MOST_JSON} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: no exported model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.200}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not an object")
    return values


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Whole numbers of a config and of the configs in it, by key."""
    found: list[tuple[str, int]] = []
    for key, value in values.items():
        if isinstance(value, dict) and key != "quantization_config":
            found += _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append((key, value))
    return found


def _code(tensor: Tensor) -> str:
    kind = "F" if tensor.is_floating_point() else "U" if tensor.dtype.is_signed is False else "I"
    return "BOOL" if str(tensor.dtype) == "torch.bool" else f"{kind}{8 * tensor.element_size()}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{name!a:.120}" for name in names[:5]) + more
