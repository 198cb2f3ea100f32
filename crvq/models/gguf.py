"""A GGUF model, in one file or in shards, as an ordinary folder of safetensors: converted once."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from crvq.errors import SourceError
from crvq.files.digests import file_digest
from crvq.files.tensors import writing_tensors
from crvq.models.complete import check_complete, check_finite, parameter_count
from crvq.models.quiet import quiet_transformers
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
    made_from = [file_digest(shard) for shard in shards]
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


_MAGIC = b"GGUF"
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_COUNT, _TENSORS = "split.count", "split.tensors.count"


def find_shards(path: Path) -> list[Path]:
    """Return all files of the model that ``path`` is or begins, in order; alone it is the only one.

    Raises:
        SourceError: a file is missing or is not a GGUF.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        _check_magic(path)
        return [path]
    count = int(match["count"])
    shards = [
        path.with_name(f"{match['name']}-{number:05d}-of-{match['count']}.gguf")
        for number in range(1, count + 1)
    ]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise SourceError(
            f"model.path={path} is one of {count} shards, and {len(missing)} of them are not next "
            f"to it: {', '.join(missing[:5])}. Put all shards into one folder"
        )
    for shard in shards:
        _check_magic(shard)
    return shards


def read_shards(shards: Sequence[Path]) -> list[gguf.GGUFReader]:
    """Open all shards and check that they belong together.

    Raises:
        SourceError: shards of different models, or tensors that the first shard announces and
            that none of them has.
    """
    readers = [gguf.GGUFReader(shard) for shard in shards]
    count = field_value(readers[0], _COUNT) or 1
    if count != len(shards):
        raise SourceError(
            f"{shards[0]} is a part of a GGUF that was split into {count} files, but "
            f"{len(shards)} could be found by its name. Name the parts as they were published "
            f"(NAME-00001-of-{count:05d}.gguf and so on), put them into one folder, and set "
            "model.path to the first"
        )
    numbers = [field_value(reader, "split.no") or 0 for reader in readers]
    if numbers != list(range(len(shards))):
        raise SourceError(
            f"the shards of {shards[0]} are numbered {numbers} inside, not 0 to {count - 1}: "
            "they are of different models or misnamed"
        )
    names = [tensor.name for reader in readers for tensor in reader.tensors]
    announced = field_value(readers[0], _TENSORS)
    if announced is not None and announced != len(names):
        raise SourceError(
            f"{shards[0]} announces {announced} tensors, but its {count} files hold {len(names)}: "
            "a shard is cut or of another model; download all shards again"
        )
    return readers


def join_shards(readers: Sequence[gguf.GGUFReader], path: Path) -> None:
    """Write one GGUF with the first shard's settings and the tensors of all."""
    first = readers[0]
    writer = gguf.GGUFWriter(
        path, field_value(first, "general.architecture"), endianess=first.endianess
    )
    for name, field in first.fields.items():
        kind = field.types[0]
        if name.startswith(("GGUF.", "split.")) or name == "general.architecture":
            continue  # of this very file, or written by the writer itself
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in tensors:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        raise SourceError(f"model.path={path}: there is no such GGUF file") from error
    except OSError as error:
        raise SourceError(f"model.path={path} cannot be read: {error.strerror}") from error
    if start != _MAGIC:
        raise SourceError(
            f"model.path={path} is not a GGUF file: it begins with {start!r}, not {_MAGIC!r}; "
            "perhaps its download was cut short, or it is a Git LFS pointer"
        )


def field_value(reader: gguf.GGUFReader, name: str) -> Any:  # noqa: ANN401 - any kind of value
    """Return the value of a metadata key; None if the file has no such key."""
    field = reader.get_field(name)
    return None if field is None else field.contents()
