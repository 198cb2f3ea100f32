"""``manifest.json``: which blocks lie in a checkpoint folder, and how to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from crvq.errors import CheckpointError
from crvq.files.atomic import write_json
from crvq.tracking.json_values import named_numbers, to_json

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1

Told = Annotated[dict[str, Any], BeforeValidator(named_numbers)]
"""Plain values whose numbers may be NaN or infinite, as a loss can be."""


class StoredFile(BaseModel):
    """A safetensors file and what it weighs."""

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str
    tensor_bytes: int
    """Bytes of all quantized tensors, without safetensors' own header."""
    unquantized_bytes: int = 0
    """Bytes of trained norms and biases beside them; bits count these as unquantized weights."""


class BlockEntry(StoredFile):
    """One block: its file, how each linear is read, and its rows of ``layers.csv``."""

    linears: dict[str, dict[str, Any]]
    """Headers by kind of linear."""
    rows: list[Told] = Field(default_factory=list)
    training: Told | None = None
    """What its fine-tuning told, to be told again when a run is resumed."""


class Manifest(BaseModel):
    """The whole of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    fingerprint: dict[str, Any]
    """What the blocks were made from; blocks of another fingerprint are not gone on from."""
    shared: StoredFile | None = None
    """Codebooks that serve the whole model."""
    outer: StoredFile | None = None
    """Trained norms and biases that belong to no block."""
    training: Told | None = None
    """What fine-tuning the whole model told; null until it is done."""
    blocks: dict[int, BlockEntry] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` whole or not at all."""
        write_json(folder / MANIFEST_FILE, to_json(self))


class DamagedManifestError(CheckpointError):
    """``manifest.json`` is not what this package writes."""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint folder; None if there is none.

    Raises:
        DamagedManifestError: it cannot be read.
        CheckpointError: it was written by a newer version.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}; this version of crvq reads up to "
                f"{FORMAT_VERSION}: upgrade crvq, or set force=true to write it anew"
            )
        return Manifest.model_validate(values)
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise DamagedManifestError(f"{path} is damaged: {error!r}") from error
