"""``manifest.json``: which blocks lie in a checkpoint folder, and how to read them.

A checkpoint may come from anywhere: whatever the file holds, reading it either returns a manifest
whose every field is checked, or raises one `CheckpointError` that names the file and the field.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from crvq.errors import CheckpointError
from crvq.files.atomic import write_json
from crvq.tracking.json_values import named_numbers, to_json

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2
"""Version 2 adds a digest of the manifest itself, and headers that name every size."""

_DIGEST = "manifest_sha256"
_LARGEST_BYTES = 256 << 20
_DEEPEST = 40
# A file in the checkpoint's own folder: no path, no device, nothing hidden.
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.safetensors$"
_Bytes = Annotated[int, Field(strict=True, ge=0, lt=2**60)]

PlainValues = Annotated[dict[str, Any], BeforeValidator(named_numbers)]
"""Plain values whose numbers may be NaN or infinite, as a loss can be."""


class StoredFile(BaseModel):
    """A safetensors file, its digest and the bytes of its tensors."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(pattern=_PLAIN_NAME)
    sha256: str = Field(max_length=64)
    tensor_bytes: _Bytes
    """Bytes of all quantized tensors, without safetensors' own header."""
    unquantized_bytes: _Bytes = 0
    """Bytes of trained norms and biases in it; bits count these as unquantized weights."""


class BlockEntry(StoredFile):
    """One block: its file, how each linear is read, and its rows of ``layers.csv``."""

    linears: dict[str, dict[str, Any]]
    """Headers by kind of linear."""
    rows: list[PlainValues] = Field(default_factory=list)
    training: PlainValues | None = None
    """Summary and curve of its fine-tuning, reported again when a run is resumed."""

    @model_validator(mode="after")
    def _names_can_be_printed(self) -> BlockEntry:
        for kind in self.linears:
            if not kind.isprintable() or len(kind) > 200:
                raise ValueError(f"the name of a linear cannot be {kind!a:.60}")
        return self


class Manifest(BaseModel):
    """The whole of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = Field(FORMAT_VERSION, strict=True, ge=1)
    fingerprint: dict[str, Any]
    """What the blocks were made from; a run resumes only if the fingerprints match."""
    shared: StoredFile | None = None
    """Codebooks that serve the whole model."""
    plan: PlainValues | None = None
    """What the method decided before the first block: how it divided the bits."""
    outer: StoredFile | None = None
    """Trained norms and biases that belong to no block."""
    training: PlainValues | None = None
    """Summary and curve of fine-tuning the whole model; null until it is done."""
    blocks: dict[Annotated[int, Field(ge=0, lt=10**6)], BlockEntry] = Field(default_factory=dict)

    def files(self) -> list[StoredFile]:
        """Return every file of the checkpoint."""
        others = (self.shared, self.outer)
        return [*self.blocks.values(), *(file for file in others if file is not None)]

    @model_validator(mode="after")
    def _no_file_twice(self) -> Manifest:
        names = [stored.file for stored in self.files()]
        twice = sorted({name for name in names if names.count(name) > 1}) if names else []
        if twice:
            raise ValueError(f"{twice[0]} is named twice")
        return self

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` with its digest, whole or not at all."""
        values = {**to_json(self), "format_version": FORMAT_VERSION}
        write_json(folder / MANIFEST_FILE, {**values, _DIGEST: _digest(values)})


class DamagedManifestError(CheckpointError):
    """``manifest.json`` is not what this package writes."""


def read_manifest(folder: Path) -> Manifest | None:
    """Read and check the manifest of a checkpoint folder; None if there is none.

    Raises:
        DamagedManifestError: it cannot be read, or its digest is not that of its content.
        CheckpointError: a newer version wrote it, or the system cannot read it.
    """
    path = folder / MANIFEST_FILE
    try:
        values = _read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:  # not damaged, perhaps: nothing may be thrown away for it
        raise CheckpointError(f"{path} cannot be read: {_short(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedManifestError(f"{path} is damaged: {_short(error)}") from error
    version = values.get("format_version")
    if type(version) is not int or version < 1:
        raise DamagedManifestError(f"{path} is damaged: format_version: {_short(version)}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {_short(version)}; this version of crvq reads up to "
            f"{FORMAT_VERSION}: upgrade crvq, or set force=true to quantize again"
        )
    digest = values.pop(_DIGEST, None)
    if version >= 2 and digest != _digest(values):
        raise DamagedManifestError(f"{path} is damaged: {_DIGEST}: not the digest of the content")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(f"{one!s:.40}" for one in first["loc"]) or "manifest"
        raise DamagedManifestError(f"{path} is damaged: {place!a}: {first['msg']}") from None
    if len(manifest.blocks) != len(values.get("blocks", {})):
        raise DamagedManifestError(f"{path} is damaged: blocks: a number occurs twice")
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size and depth, no key twice, every number finite.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no regular file, too large or deep, or no such JSON.
        RecursionError: it is far too deep.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > _LARGEST_BYTES:
        raise ValueError(f"{found.st_size} bytes; at most {_LARGEST_BYTES} are read")
    values = json.loads(
        path.read_text(encoding="utf-8"),
        object_pairs_hook=_no_key_twice,
        parse_constant=_no_constant,
    )
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    level: list[Any] = [values]
    for _ in range(_DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [item for one in inner for item in one if isinstance(item, (dict, list))]
        if not level:
            return values
    raise ValueError(f"values are nested more than {_DEEPEST} deep")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!a:.60} occurs twice")
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _digest(values: dict[str, Any]) -> str:
    """Return the SHA-256 of the canonical form: sorted keys, no spaces, ASCII."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: object) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
