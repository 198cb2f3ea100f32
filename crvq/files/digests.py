"""Digests of files and values; files that carry their own, checked whenever they are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crvq.errors import SourceError
from crvq.files.atomic import write_atomically
from crvq.files.tensors import writing_tensors


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_digest(values: Any) -> str:  # noqa: ANN401 - whatever JSON can say
    """Return the SHA-256 of canonical JSON, in hex; the order of keys does not matter."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


_KEY = "sha256"
_BLANK = "0" * 64
_IN_JSON = re.compile(rb'\A\{"sha256": "([0-9a-f]{64})", "content": ')
_IN_HEADER = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_CHUNK = 1 << 20


class DamagedFileError(SourceError):
    """A file of this program's own does not hold what was written to it."""


def write_digested_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write ``value`` as JSON with its digest, whole or not at all.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot express.
    """
    text = json.dumps({_KEY: _BLANK, "content": value}, allow_nan=False) + "\n"
    write_atomically(path, lambda file: _fill(file, text.encode()))


def read_digested_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Return what `write_digested_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file was cut, changed, or written by something else.
    """
    found = _read(path)
    match = _IN_JSON.match(found)
    if match is None or match.group(1).decode() != _digest_with_blank(path, match.start(1)):
        raise _damaged(path)
    return json.loads(found)["content"]


def save_digested_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whose header holds the file's digest, whole or not at all.

    Args:
        path: the file.
        tensors: copied to the CPU where they are not there; no two may share memory.
        metadata: strings for the header; the key ``sha256`` is taken.
    """
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(file: Path) -> None:
        with writing_tensors(path):
            save_file(owned, file, metadata={**(metadata or {}), _KEY: _BLANK})
        place = _digest_place(file)
        assert place is not None
        with file.open("r+b") as opened:
            digest = _digest_with_blank(file, place)
            opened.seek(place)
            opened.write(digest.encode())

    write_atomically(path, write)


def load_digested_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata that `save_digested_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file was cut, changed, or written by something else.
    """
    check_digested_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error
    metadata.pop(_KEY, None)
    return tensors, metadata


def check_digested_tensors(path: Path) -> None:
    """Check a file of `save_digested_tensors` against its digest without loading its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file was cut, changed, or written by something else.
    """
    place = _digest_place(path)
    if place is None:
        raise _damaged(path)
    with path.open("rb") as file:
        file.seek(place)
        stored = file.read(len(_BLANK)).decode("latin-1")
    if stored != _digest_with_blank(path, place):
        raise _damaged(path)


def _digest_place(path: Path) -> int | None:
    """Where the digest starts in a safetensors file: 8 bytes of length, then a JSON header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # A damaged length may be anything: read no more than the file has.
            header = file.read(min(length, path.stat().st_size))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path) from error
    match = _IN_HEADER.search(header)
    return None if match is None else 8 + match.start(1)


def _digest_with_blank(path: Path, place: int) -> str:
    """SHA-256 of the file with 64 zeros at ``place``."""
    summed = hashlib.sha256()
    with path.open("rb") as file:
        summed.update(file.read(place))
        summed.update(_BLANK.encode())
        file.seek(place + len(_BLANK))
        while chunk := file.read(_CHUNK):
            summed.update(chunk)
    return summed.hexdigest()


def _fill(file: Path, content: bytes) -> None:
    match = _IN_JSON.match(content)
    assert match is not None
    digest = hashlib.sha256(content).hexdigest().encode()
    file.write_bytes(content[: match.start(1)] + digest + content[match.end(1) :])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is damaged: its content does not match the SHA-256 in it; delete it, and it is "
        "computed again"
    )
