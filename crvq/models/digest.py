"""Digests of tensors, of a model with everything that decides what it computes, of a tokenizer."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crvq.models.residence import IN_MEMORY, Residence

# Where a config came from and which release wrote it; neither changes what a model computes.
_NOT_COMPUTED = ("_name_or_path", "_commit_hash", "transformers_version", "architectures")
_TOKENIZER_SETTINGS = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "model_max_length",
    "padding_side",
    "split_special_tokens",
    "truncation_side",
)


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's shape, type and bytes."""
    summed = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    summed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return summed.hexdigest()


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 over all parameters and persistent buffers, in the order of their names.

    Two models with equal weights may compute different things: see `model_digest`.
    """
    summed = hashlib.sha256()
    for name, tensor in tensors:
        summed.update(name.encode())
        summed.update(tensor_digest(tensor.reshape(-1)).encode())
    return summed.hexdigest()


def model_digest(model: PreTrainedModel, residence: Residence = IN_MEMORY) -> str:
    """Return the SHA-256 of everything that decides what a model computes.

    Weights, shapes, class, configuration (rotary base, scales, windows, ...), attention and expert
    implementation, buffers that are computed and not stored, and the source of code that came with
    the model. Not the versions of the libraries that run it.
    """
    shapes = [
        (name, list(one.shape), str(one.dtype)) for name, one in sorted(model.state_dict().items())
    ]
    stored = dict(model.state_dict())
    computed = [
        (name, tensor_digest(one.reshape(-1)))
        for name, one in sorted(model.named_buffers())
        if name not in stored
    ]
    parts = [
        type(model).__name__,
        _settings(model.config),
        getattr(model.config, "_attn_implementation", None),
        getattr(model.config, "_experts_implementation", None),
        shapes,
        computed,
        _code_digest(type(model)),
        weights_digest(residence.tensors(model)),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of what decides which tokens a text becomes, and which text tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = {name: getattr(tokenizer, name, None) for name in _TOKENIZER_SETTINGS}
    parts = [type(tokenizer).__name__, rules, special, settings, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _settings(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any transformers config
    """What differs from the defaults of the config's class: a new default key is no change."""
    values: dict[str, Any] = config.to_diff_dict()
    return _without_origin(values) | {"model_type": config.model_type}


def _without_origin(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {k: _without_origin(v) for k, v in value.items() if k not in _NOT_COMPUTED}
    return value


def _code_digest(kind: type) -> str | None:
    """SHA-256 of the source of a class that came with the model; None for transformers' own."""
    if not kind.__module__.startswith("transformers_modules"):
        return None
    file = inspect.getsourcefile(kind)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
