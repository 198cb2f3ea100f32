"""A GGUF model as an ordinary Hugging Face folder of safetensors, converted once."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from crvq.errors import SourceError
from crvq.files.tensors import writing_tensors
from crvq.models.complete import check_complete, check_finite, parameter_count
from crvq.models.gguf_shards import field_value, find_shards, join_shards, read_shards
from crvq.models.quiet import quiet_transformers
from crvq.sources.digest import sha256_of_file
from crvq.sources.folder import folder_damage, write_folder

_PACKAGES = ("torch", "transformers", "tokenizers", "gguf")


def dequantized_folder(path: Path, dtype: torch.dtype, cache: Path) -> Path:
    """Return the folder in ``cache`` with the weights of a GGUF dequantized to ``dtype``.

    Reading a GGUF takes transformers 13 s for SmolLM2-135M, nearly all of it in parsing the
    vocabulary three times; the folder takes a second. Its name carries the digest of all that the
    conversion depends on: the bytes of every shard, the type, and the versions of the libraries
    that convert. A damaged folder is converted again.

    Args:
        path: the file, or any of its shards if all of them are in one folder.
        dtype: of the converted weights.
        cache: the cache folder.

    Raises:
        SourceError: a file or shard is missing or not a GGUF, tensors are missing or would be
            left out, or transformers cannot read the architecture. Nothing is cached then.
    """
    shards = find_shards(path)
    made_from = [sha256_of_file(shard) for shard in shards]
    made_from += [str(dtype), *(f"{package} {version(package)}" for package in _PACKAGES)]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    name = f"{shards[0].stem}-{key}-{str(dtype).removeprefix('torch.')}"
    folder = cache / "dequantized" / name
    if folder_damage(folder) is not None:
        write_folder(folder, lambda target: _convert(shards, dtype, target))
    return folder


def _convert(shards: Sequence[Path], dtype: torch.dtype, folder: Path) -> None:
    """Let transformers dequantize the file and save it as the plain model that it then is."""
    try:
        readers = read_shards(shards)
        if len(shards) == 1:
            model, info, tokenizer = _read(shards[0], dtype)
        else:
            with tempfile.TemporaryDirectory(dir=folder.parent) as place:
                joined = Path(place) / "joined.gguf"
                join_shards(readers, joined)
                model, info, tokenizer = _read(joined, dtype)
    except SourceError:
        raise
    except Exception as error:  # tokenizers raises bare ones
        raise SourceError(
            f"transformers cannot read the GGUF file {shards[0]}: {error}. "
            "Try one of: the same model as a Hugging Face folder (model.path=FOLDER), or "
            "model=smollm2-135m"
        ) from error
    # Before anything is saved: from the folder on, a random tensor looks like any other.
    check_complete(model, info, str(shards[0]))
    _check_all_read(model, readers, shards[0])
    check_finite(model, str(shards[0]))
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        with writing_tensors(folder):
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read(path: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any], Any]:
    """Model, loading info and tokenizer.

    Without ``dequantize=True`` some architectures stay packed, and the others' config says
    that they are quantized although they no longer are.
    """
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # The converter's bar is not transformers' own: it writes to standard error whatever is set.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **source,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, info = loaded
    return model, info, tokenizer


def _check_all_read(model: Any, readers: Sequence[GGUFReader], path: Path) -> None:  # noqa: ANN401
    """Refuse a file with tensors that transformers left out without a word.

    (Such as ``rope_freqs``, which scales Llama 3's rotary frequencies, or biases that the config
    does not announce.) As many values must arrive as the file has; where they do not, the names
    are those that transformers has no place for.
    """
    sizes = {tensor.name: int(tensor.n_elements) for one in readers for tensor in one.tensors}
    if model.config.get_text_config().tie_word_embeddings:
        sizes.pop("output.weight", None)  # the embedding once more
    held = parameter_count(model)
    if sum(sizes.values()) == held:
        return
    architecture = str(field_value(readers[0], "general.architecture"))
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    unread = [name for name in sizes if name not in known]
    raise SourceError(
        f"{path} holds {sum(sizes.values())} values, but transformers made a model of {held} from "
        f"it; left out: {', '.join(unread[:8]) or 'unknown tensors'}. The model would compute "
        "something else than the file's; use the same model as a Hugging Face folder "
        "(model.path=FOLDER)"
    )
