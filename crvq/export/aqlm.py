"""Checkpoints of AQLM (arXiv 2401.06118) as folders that this package runs.

AQLM's layout, one module per linear layer: ``codes (out, in / d, codebooks)``, int8 or int16 that
hold indices modulo 2^bits; ``codebooks (codebooks, entries, 1, d)``; ``scales (out, 1, 1, 1)``.
That is an `AdditiveWeight` whose codebooks all cover every group, without a permutation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from crvq.errors import CheckpointError
from crvq.export.checks import CONFIG_FILE, INDEX_FILE
from crvq.export.folder import check_out, save_quantized
from crvq.models.quiet import quiet_transformers
from crvq.vq.additive_code import AdditiveCode
from crvq.weights.additive import AdditiveWeight
from crvq.weights.quantized import QuantizedWeight

_WHOLE = "model.safetensors"
_PARTS = ("codes", "codebooks", "scales")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def import_aqlm(folder: str | Path, out: str | Path) -> Path:
    """Write a checkpoint in AQLM's format as a packed folder; no weight changes.

    Args:
        folder: with ``config.json`` and safetensors files, on this machine.
        out: must not exist, or be an empty folder.

    Raises:
        CheckpointError: it is no such checkpoint, its tensors contradict its configuration, or it
            groups out features, which this package's layers do not.
        ConfigError: there is something at ``out``.
    """
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    check_out(out)
    settings = _settings(folder)
    tensors = _tensors(folder)
    weights: dict[str, QuantizedWeight] = {
        name: _weight(name, tensors, settings)
        for name in sorted(key.removesuffix(".codes") for key in tensors if key.endswith(".codes"))
    }
    if not weights:
        raise CheckpointError(f"{folder} holds no tensor NAME.codes: not an AQLM checkpoint")
    used = {f"{name}.{part}" for name in weights for part in _PARTS}
    rest = {key: tensor for key, tensor in tensors.items() if key not in used}
    model = _model(folder, rest, weights)
    tokenizer = None
    if any((folder / name).exists() for name in _TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    layout = "x".join(str(settings[key]) for key in ("num_codebooks", "nbits_per_codebook"))
    origin = {"model": folder.name, "method": f"AQLM {layout} g{settings['in_group_size']}"}
    return save_quantized(model, tokenizer, weights, out, origin)


def _settings(folder: Path) -> dict[str, int]:
    """Return ``quantization_config``, checked."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} cannot be read: {error}") from error
    found = config.get("quantization_config") if isinstance(config, dict) else None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(found, dict) or method != "aqlm":
        raise CheckpointError(
            f"{folder}: quantization_config.quant_method is {method!r:.60}, not 'aqlm'; load it "
            "with the package that wrote it"
        )
    limits = {"in_group_size": 32, "out_group_size": 1, "num_codebooks": 16}
    limits["nbits_per_codebook"] = 16
    for key, most in limits.items():
        value = found.get(key)
        if not isinstance(value, int) or not 1 <= value <= most:
            more = "; groups of out features are not supported" if key == "out_group_size" else ""
            raise CheckpointError(
                f"{folder}: quantization_config.{key} is {value!r:.60}, not 1 to {most}{more}"
            )
    return {key: int(found[key]) for key in limits}


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors; safetensors only."""
    files = [_WHOLE]
    if (folder / INDEX_FILE).is_file():
        try:
            index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            files = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{folder / INDEX_FILE} is damaged: {error}") from error
    found: dict[str, Tensor] = {}
    for name in files:
        path = folder / Path(str(name)).name  # never outside the folder
        if not path.is_file():
            pickled = [one.name for one in folder.glob("*.bin")]
            more = f"; {pickled[0]} is pickled, and nothing is unpickled here" if pickled else ""
            raise CheckpointError(f"{path} is missing{more}")
        try:
            with safe_open(path, "pt") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
    return found


def _weight(
    name: str, tensors: Mapping[str, Tensor], settings: Mapping[str, int]
) -> AdditiveWeight:
    missing = [part for part in _PARTS if f"{name}.{part}" not in tensors]
    if missing:
        raise CheckpointError(f"{name} has no tensor {', '.join(missing)}")
    codes, codebooks, scales = (tensors[f"{name}.{part}"] for part in _PARTS)
    books, bits, d = (settings[k] for k in ("num_codebooks", "nbits_per_codebook", "in_group_size"))
    expected = {
        "codes": (*codes.shape[:2], books),
        "codebooks": (books, 1 << bits, 1, d),
        "scales": (codes.shape[0], 1, 1, 1),
    }
    for part, tensor in (("codes", codes), ("codebooks", codebooks), ("scales", scales)):
        if tuple(tensor.shape) != expected[part]:
            raise CheckpointError(
                f"{name}.{part} has shape {tuple(tensor.shape)}; config.json says {expected[part]}"
            )
    if codes.is_floating_point() or not (
        codebooks.is_floating_point() and scales.is_floating_point()
    ):
        raise CheckpointError(f"{name}: codes must be integers, codebooks and scales floats")
    indices = codes.long() % (1 << bits)  # stored as signed numbers
    out, groups = indices.shape[:2]
    return AdditiveWeight(
        out_features=out,
        in_features=groups * d,
        code=AdditiveCode(
            [indices[:, :, k].contiguous() for k in range(books)],
            _half(scales, f"{name}.scales").flatten().float(),
        ),
        codebooks=[{"entries": _half(book[:, 0], f"{name}.codebooks")} for book in codebooks],
        order=torch.arange(groups * d),
        reordered=0,
    )


def _half(values: Tensor, what: str) -> Tensor:
    """Return float16 numbers; AQLM's are, and bfloat16 ones of usual size fit as well."""
    half = values.half().contiguous()
    if not bool(torch.isfinite(half).all()):
        raise CheckpointError(f"{what} holds a number that is not finite in float16")
    return half


def _model(
    folder: Path, rest: dict[str, Tensor], weights: Mapping[str, QuantizedWeight]
) -> PreTrainedModel:
    """Make the model without memory for its quantized layers, and give it all other tensors."""
    with quiet_transformers():
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    result = model.load_state_dict(rest, strict=False, assign=True)
    model.tie_weights()
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    quantized = {f"{name}.weight" for name in weights}
    missing = set(result.missing_keys) - quantized - tied
    if missing or result.unexpected_keys:
        some = sorted(missing)[:3] or sorted(result.unexpected_keys)[:3]
        what = "lacks" if missing else "has, and the model does not,"
        raise CheckpointError(f"{folder} {what} the tensors {', '.join(some)}")
    return model
