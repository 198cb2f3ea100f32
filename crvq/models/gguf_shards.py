"""GGUF files that come in shards (``NAME-00001-of-00003.gguf``): find all, join them into one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf

from crvq.errors import SourceError

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
