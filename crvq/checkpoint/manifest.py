"""``manifest.json``: which blocks lie in a checkpoint folder, and how to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crvq.errors import CheckpointError
from crvq.files.atomic import write_json

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1


class StoredFile(BaseModel):
    """A safetensors file and what it weighs."""

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str
    tensor_bytes: int
    """Bytes of all tensors, without safetensors' own header."""


class BlockEntry(StoredFile):
    """One block: its file, how each linear is read, and its rows of ``layers.csv``."""

    linears: dict[str, dict[str, Any]]
    """Headers by kind of linear."""
    rows: list[dict[str, Any]] = Field(default_factory=list)


class Manifest(BaseModel):
    """The whole of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    fingerprint: dict[str, Any]
    """What the blocks were made from; blocks of another fingerprint are not gone on from."""
    shared: StoredFile | None = None
    """Codebooks that serve the whole model."""
    blocks: dict[int, BlockEntry] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` whole or not at all."""
        write_json(folder / MANIFEST_FILE, self.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint folder; None if there is none.

    Raises:
        CheckpointError: it is damaged, or written by a newer version.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        manifest = Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); remove the folder {folder} to start over"
        ) from error
    if manifest.format_version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {manifest.format_version}; this version reads up to "
            f"{FORMAT_VERSION}: upgrade crvq"
        )
    return manifest
