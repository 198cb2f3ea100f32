"""Write a quantized model as a Hugging Face folder, packed or dequantized."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crvq.errors import ConfigError
from crvq.export.card import model_card
from crvq.export.checks import CONFIG_FILE, INDEX_FILE
from crvq.export.layout import FloatDtype, Layout, pack_weights
from crvq.inference import QuantizedLinear
from crvq.models.blocks import LinearSlot, find_blocks, find_slots
from crvq.models.digest import tensor_digest
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight

CODE_FILE = "modeling_crvq.py"
MAX_SHARD = "5GB"
TOKENIZER_CONFIG = "tokenizer_config.json"
# How a tokenizer was read, which transformers writes next to what it is.
_HOW_LOADED = ("is_local", "local_files_only")

_CODE = '''"""Lets `trust_remote_code=True` load this folder where nothing has imported crvq yet."""

from crvq.export.registration import install
from transformers import {config}, {base}

install()  # the quantizer, with transformers


class Crvq{config}({config}):
    """As transformers has it; it is the first thing that is read of a folder."""


class Crvq{base}({base}):
    """As transformers has it; its quantized linear layers come with the quantizer."""

    config_class = Crvq{config}
'''


def save_quantized(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    weights: Mapping[str, QuantizedWeight],
    out: Path,
    origin: Mapping[str, Any] | None = None,
    *,
    dense: bool = False,
    max_shard: int | str = MAX_SHARD,
) -> Path:
    """Write a folder that `crvq.load` and, once crvq is imported, transformers read.

    Args:
        model: its configuration and unquantized tensors are written; the weights of its quantized
            linears are not looked at. It is left unchanged.
        tokenizer: written too, if there is one.
        weights: by the linear's name in the model (``model.layers.0.self_attn.q_proj``).
        out: must not exist, or be an empty folder. It appears whole or not at all.
        origin: facts for the model card; see `crvq.export.card.model_card`.
        dense: dequantize: a plain folder for any other tool, of the size before quantization.
        max_shard: largest size of one file.

    Raises:
        ConfigError: there is something at ``out``, or a quantized weight that no module of its
            own holds (fused experts) is to be packed.
    """
    out = Path(out).expanduser()
    check_out(out)
    slots = _slots(model, weights, dense)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        if dense:
            _write_dense(model, weights, slots, partial)
        else:
            _write_packed(model, weights, origin or {}, partial, max_shard)
        if tokenizer is not None:
            _write_tokenizer(tokenizer, partial)
        _publish(partial)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in values.items() if key not in _HOW_LOADED}
        _write_json(path, kept)


def _publish(folder: Path) -> None:
    """Make a complete folder readable as any other file is, and durable."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as written:
                os.fsync(written.fileno())


def check_out(out: Path) -> None:
    """Refuse a place where something is already.

    Raises:
        ConfigError: it is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder; name another, or remove it")


def unquantized_tensors(
    model: PreTrainedModel, weights: Mapping[str, QuantizedWeight]
) -> dict[str, Tensor]:
    """Return the model's tensors that are not part of quantized linears, tied ones once."""
    state: dict[str, Tensor] = model.state_dict()
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return {
        key: tensor.detach()
        for key, tensor in state.items()
        if not _is_quantized(key, weights) and not _is_same(state, key, tied.get(key))
    }


def _is_quantized(key: str, weights: Mapping[str, QuantizedWeight]) -> bool:
    """Return whether a tensor of the model is part of a quantized weight; its bias is not."""
    if key.endswith(".bias"):
        return False
    # Of a module, of a module inside it (a permutation), or the parameter of fused experts.
    owner = key.rpartition(".")[0]
    return owner in weights or owner.rpartition(".")[0] in weights or f"{key}.0" in weights


def least_loss_dtype(tensors: Mapping[str, Tensor]) -> FloatDtype:
    """Return the 16-bit type in which floating-point tensors lose least.

    bfloat16 for weights that were bfloat16 before; float16, with three more bits, for most others.
    The loss is the sum of relative squared errors; a value beyond float16's range rules it out.
    """
    losses = {torch.float16: 0.0, torch.bfloat16: 0.0}
    for tensor in tensors.values():
        if not tensor.is_floating_point():
            continue
        exact = tensor.float()
        energy = float(exact.square().sum(dtype=torch.float64)) or 1.0
        for dtype in losses:
            error = (exact.to(dtype).float() - exact).square_().sum(dtype=torch.float64)
            losses[dtype] += float(error) / energy
    half, brain = losses[torch.float16], losses[torch.bfloat16]
    # NaN: infinity minus infinity, where float16 overflowed.
    return "bfloat16" if math.isnan(half) or brain < half else "float16"


def stored_tensors(
    model: PreTrainedModel,
    weights: Mapping[str, QuantizedWeight],
    origin: Mapping[str, Any],
) -> tuple[dict[str, Tensor], Layout]:
    """Return all tensors of a packed folder, and what its config says of them."""
    rest = unquantized_tensors(model, weights)
    dtype = least_loss_dtype(rest)
    tensors = {**pack_weights(weights), **{k: _in_16_bits(v, dtype) for k, v in rest.items()}}
    layout = Layout(
        linears={name: weights[name].header() for name in sorted(weights)},
        unquantized_dtype=dtype,
        digests={name: tensor_digest(tensors[name].reshape(-1)) for name in sorted(tensors)},
        origin=dict(origin),
    )
    return tensors, layout


def _write_packed(
    model: PreTrainedModel,
    weights: Mapping[str, QuantizedWeight],
    origin: Mapping[str, Any],
    folder: Path,
    max_shard: int | str,
) -> None:
    tensors, layout = stored_tensors(model, weights, origin)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / INDEX_FILE, index)
    _write_config(model, folder, layout.model_dump())
    bits = sum((weight.bits() for weight in weights.values()), start=BitCount())
    rest = [one for name, one in tensors.items() if name not in layout.packed_bytes]
    card = model_card(layout, bits, sum(one.numel() * one.element_size() for one in rest))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_config(model: PreTrainedModel, folder: Path, quantization: dict[str, Any]) -> None:
    """Write config.json, the generation config, and code for ``trust_remote_code=True``."""
    config = copy.deepcopy(model.config)
    config._name_or_path = ""
    config.dtype = str(_model_dtype(model)).removeprefix("torch.")
    base = _transformers_class(model)
    config.architectures = [base or type(model).__name__]
    config.quantization_config = quantization
    if base is not None:
        kind = _own_class(type(config))
        module = Path(CODE_FILE).stem
        config.auto_map = {
            "AutoConfig": f"{module}.Crvq{kind}",
            "AutoModelForCausalLM": f"{module}.Crvq{base}",
        }
        code = _CODE.format(base=base, config=kind)
        (folder / CODE_FILE).write_text(code, encoding="utf-8")
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _write_dense(
    model: PreTrainedModel,
    weights: Mapping[str, QuantizedWeight],
    slots: Mapping[str, LinearSlot],
    folder: Path,
) -> None:
    tensors = unquantized_tensors(model, weights)
    _add_dense(tensors, model, weights, slots)
    dtype = least_loss_dtype(tensors)
    stored = {name: _in_16_bits(tensor, dtype) for name, tensor in tensors.items()}
    model.save_pretrained(folder, state_dict=stored, max_shard_size=MAX_SHARD)
    path = folder / CONFIG_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {**values, "dtype": dtype})


def _add_dense(
    rest: dict[str, Tensor],
    model: PreTrainedModel,
    weights: Mapping[str, QuantizedWeight],
    slots: Mapping[str, LinearSlot],
) -> None:
    """Add the dequantized weights, laid out as the model's own parameters."""
    state = model.state_dict()
    for name, weight in weights.items():
        slot = slots[name]
        key = f"{name}.weight" if slot.expert is None else name.rpartition(".")[0]
        if key not in rest:
            rest[key] = state[key].detach().float().clone()
        slot.view(rest[key]).copy_(weight.dequantize())


def _slots(
    model: PreTrainedModel, weights: Mapping[str, QuantizedWeight], dense: bool
) -> dict[str, LinearSlot]:
    """Return where the model keeps weights as parameters, checking all names and shapes."""
    prefix, blocks = find_blocks(model) if dense or not _is_packed(model) else ("", [])
    slots = {
        f"{prefix}.{index}.{slot.kind}": slot
        for index, block in enumerate(blocks)
        for slot in find_slots(block)
    }
    shapes = {name: slot.shape for name, slot in slots.items()}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            shapes[name] = module.out_features, module.in_features
    for name, weight in weights.items():
        shape = weight.out_features, weight.in_features
        if shapes.get(name) != shape:
            raise ConfigError(f"{name} is {shapes.get(name)} in the model, quantized it is {shape}")
        if dense and name not in slots:
            raise ConfigError("only a run can be written dequantized, not a model loaded packed")
        if not dense and name in slots and slots[name].expert is not None:
            raise ConfigError(
                f"{name} is a slice of fused experts, for which there is no packed layer yet; "
                "write a dequantized folder with --dense"
            )
    return slots


def _is_packed(model: nn.Module) -> bool:
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def _in_16_bits(tensor: Tensor, dtype: FloatDtype) -> Tensor:
    stored = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", stored, copy=True).contiguous()


def _is_same(state: Mapping[str, Tensor], key: str, source: str | None) -> bool:
    """Return whether a tied tensor is the very memory of the one that it is tied to."""
    return (
        source is not None and source in state and state[key].data_ptr() == state[source].data_ptr()
    )


def _model_dtype(model: nn.Module) -> torch.dtype:
    floats = (one.dtype for one in model.parameters() if one.is_floating_point())
    return next(floats, torch.float32)


def _transformers_class(model: PreTrainedModel) -> str | None:
    """Name of the model's class in transformers' own causal models; None for others."""
    name = _own_class(type(model))
    return name if name in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) else None


def _own_class(kind: type) -> str | None:
    """Name of the first class of transformers itself that a class is or inherits from."""
    own = (one for one in kind.__mro__ if one.__module__.startswith("transformers."))
    return next((one.__name__ for one in own), None)


def _write_json(path: Path, value: object) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
