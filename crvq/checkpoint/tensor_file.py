"""Safetensors files of a checkpoint: written whole, checked before they are read."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crvq.checkpoint.manifest import StoredFile
from crvq.errors import CheckpointError
from crvq.files.atomic import write_atomically
from crvq.files.digests import file_digest
from crvq.files.tensors import writing_tensors

# Everything that this package stores; anything else is refused before it is read.
_DTYPES = frozenset({"U8", "I8", "I64", "F16", "BF16", "F32"})
_LENGTH_BYTES = 8


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], unquantized: Mapping[str, Tensor]
) -> StoredFile:
    """Write tensors to one file, whole or not at all, and describe it.

    Args:
        path: of the file.
        tensors: quantized ones.
        unquantized: trained norms and biases; counted apart.
    """
    everything = {**_owned(tensors), **_owned(unquantized)}
    with writing_tensors(path):
        write_atomically(path, lambda file: save_file(everything, file))
    return StoredFile(
        file=path.name,
        sha256=file_digest(path),
        tensor_bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
        unquantized_bytes=sum(t.numel() * t.element_size() for t in unquantized.values()),
    )


def is_intact(folder: Path, stored: StoredFile) -> bool:
    """Return whether a file is there, lies inside the folder, and has the stored size and digest.

    A link that leads out of the folder, a device or a pipe is not opened.
    """
    path = folder / stored.file
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
        found = path.stat()
        if not inside or not stat.S_ISREG(found.st_mode):
            return False
        # Read a file of another size no further: a digest over it could take hours.
        with path.open("rb") as file:
            header = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        tensors = stored.tensor_bytes + stored.unquantized_bytes
        if found.st_size != _LENGTH_BYTES + header + tensors:
            return False
        return file_digest(path) == stored.sha256
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return False


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of an intact file; memory stays within the file's size.

    Raises:
        CheckpointError: it is no safetensors file, or holds a dtype that no checkpoint has.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            for name in names:
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise CheckpointError(
                        f"{path}: {name!a:.100}: {dtype}; only {', '.join(sorted(_DTYPES))} are "
                        "stored in a checkpoint"
                    )
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error!s:.200}") from error


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies: safetensors refuses strides and tensors that share memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
