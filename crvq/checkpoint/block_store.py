"""A folder of packed blocks that a run adds to, and goes on from after it was killed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crvq.checkpoint.manifest import (
    BlockEntry,
    DamagedManifestError,
    Manifest,
    StoredFile,
    read_manifest,
)
from crvq.errors import CheckpointError
from crvq.files.atomic import write_atomically
from crvq.tracking.events import LayerRow
from crvq.weights.fields import FormatError
from crvq.weights.formats import unpack_weight
from crvq.weights.quantized import QuantizedWeight

_SHARED_FILE = "shared.safetensors"
_OUTER_FILE = "outer.safetensors"
# Before the names of trained norms and biases in a block's file.
_UNQUANTIZED = "unquantized"


@dataclass(frozen=True)
class StoredBlock:
    """A block read back."""

    weights: dict[str, QuantizedWeight]
    """By kind of linear."""
    rows: list[LayerRow]
    others: dict[str, Tensor] = field(default_factory=dict)
    """Trained norms and biases, by their name in the block."""
    training: dict[str, Any] | None = None
    """What fine-tuning told of the block."""


class BlockStore:
    """The packed blocks of one run.

    Args:
        folder: made if need be.
        manifest: as read from the folder, or a new one.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._shared: dict[str, Tensor] | None = None

    @classmethod
    def open(
        cls, folder: Path, fingerprint: dict[str, Any], fresh: bool = False
    ) -> tuple[BlockStore, str | None]:
        """Open a folder to go on, or start over where it holds something else.

        Args:
            folder: of the checkpoint.
            fingerprint: what the blocks are made from.
            fresh: start over whatever lies there.

        Returns:
            The store, and why earlier blocks were dropped (None if none were).

        Raises:
            CheckpointError: a newer version wrote the folder.
        """
        reason = None
        manifest = None
        if not fresh:
            try:
                manifest = read_manifest(folder)
            except DamagedManifestError as error:
                reason = f"{error}; starting over"
        if manifest is not None and manifest.fingerprint != fingerprint:
            differing = sorted(
                key
                for key in fingerprint.keys() | manifest.fingerprint.keys()
                if fingerprint.get(key) != manifest.fingerprint.get(key)
            )
            reason = (
                f"{len(manifest.blocks)} packed blocks were made from something else "
                f"({', '.join(differing)} differ); starting over"
            )
            manifest = None
        if manifest is None:
            shutil.rmtree(folder, ignore_errors=True)
            manifest = Manifest(fingerprint=fingerprint)
        return cls(folder, manifest), reason

    @classmethod
    def read(cls, folder: Path) -> BlockStore:
        """Open a finished checkpoint to read it.

        Raises:
            CheckpointError: no manifest there, or a damaged one.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise CheckpointError(f"{folder} holds no manifest.json: it is not a checkpoint")
        return cls(folder, manifest)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the blocks were made from."""
        return dict(self._manifest.fingerprint)

    def whole_blocks(self) -> int:
        """How many blocks from the first on are there and undamaged."""
        count = 0
        while count in self._manifest.blocks and self._intact(self._manifest.blocks[count]):
            count += 1
        return count

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all quantized tensors, shared ones once."""
        return sum(file.tensor_bytes for file in self._files())

    @property
    def unquantized_bytes(self) -> int:
        """Bytes of all trained norms and biases."""
        return sum(file.unquantized_bytes for file in self._files())

    def _files(self) -> list[StoredFile]:
        beside = (self._manifest.shared, self._manifest.outer)
        return [*self._manifest.blocks.values(), *(file for file in beside if file is not None)]

    def digest(self) -> str:
        """SHA-256 over the digests of all files: equal for equal quantized models."""
        summed = hashlib.sha256()
        if self._manifest.shared is not None:
            summed.update(self._manifest.shared.sha256.encode())
        if self._manifest.outer is not None:
            summed.update(self._manifest.outer.sha256.encode())
        for block in sorted(self._manifest.blocks):
            summed.update(self._manifest.blocks[block].sha256.encode())
        return summed.hexdigest()

    def save_shared(self, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors that serve the whole model."""
        self._manifest.shared = self._save(_SHARED_FILE, tensors)
        self._shared = dict(tensors)
        self._manifest.write(self.folder)

    def load_shared(self) -> dict[str, Tensor] | None:
        """The tensors that serve the whole model; None if none were stored or they are damaged."""
        if self._shared is None and self._manifest.shared is not None:
            if not self._intact(self._manifest.shared):
                return None
            self._shared = load_file(self.folder / self._manifest.shared.file)
        return self._shared

    @property
    def training(self) -> dict[str, Any] | None:
        """What fine-tuning the whole model told; None if it was not, or not wholly stored."""
        return self._manifest.training

    def finish_training(self, told: dict[str, Any]) -> None:
        """Say that everything of a model trained as a whole is stored."""
        self._manifest.training = told
        self._manifest.write(self.folder)

    def save_outer(self, tensors: Mapping[str, Tensor]) -> None:
        """Store trained norms and biases that belong to no block, by their name in the model."""
        self._manifest.outer = self._save(_OUTER_FILE, {}, tensors)
        self._manifest.write(self.folder)

    def load_outer(self) -> dict[str, Tensor]:
        """Trained norms and biases that belong to no block; none, if none were stored.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        if self._manifest.outer is None:
            return {}
        if not self._intact(self._manifest.outer):
            raise CheckpointError(f"{self.folder / _OUTER_FILE} is missing or damaged")
        return _under(load_file(self.folder / _OUTER_FILE), _UNQUANTIZED)

    def save_block(
        self,
        block: int,
        weights: Mapping[str, QuantizedWeight],
        rows: Sequence[LayerRow],
        others: Mapping[str, Tensor] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        """Store a block's packed weights; the manifest names it only once its file is whole.

        Args:
            block: its number.
            weights: by kind of linear.
            rows: of ``layers.csv``.
            others: trained norms and biases, by their name in the block.
            training: what fine-tuning told, as JSON can say it.
        """
        tensors: dict[str, Tensor] = {}
        for kind, weight in weights.items():
            tensors |= {f"{kind}.{name}": tensor for name, tensor in weight.pack().items()}
            together = weight.shared()
            if together is not None and not self.serves_model(together[0]):
                tensors |= {f"{together[0]}.{key}": part for key, part in together[1].items()}
        stored = self._save(f"block-{block:03d}.safetensors", tensors, others or {})
        self._manifest.blocks[block] = BlockEntry(
            **stored.model_dump(),
            linears={kind: weight.header() for kind, weight in weights.items()},
            rows=[asdict(row) for row in rows],
            training=training,
        )
        self._manifest.write(self.folder)

    def load_block(self, block: int) -> StoredBlock:
        """Read a block back.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        entry = self._manifest.blocks.get(block)
        if entry is None or not self._intact(entry):
            raise CheckpointError(f"block {block} in {self.folder} is missing or damaged")
        tensors = load_file(self.folder / entry.file)
        weights = {}
        for kind, header in entry.linears.items():
            own = _under(tensors, kind)
            name = header.get("codebook_set")
            source = (self.load_shared() or {}) if self.serves_model(name) else tensors
            together = _under(source, name) if name else {}
            if name and not together:
                raise CheckpointError(
                    f"{kind} of block {block} in {self.folder} needs the shared tensors {name!r}, "
                    f"and {_SHARED_FILE} is missing or damaged"
                )
            try:
                weights[kind] = unpack_weight(header, own, together)
            except FormatError as error:
                raise CheckpointError(
                    f"{kind} of block {block} in {self.folder} cannot be unpacked: {error}"
                ) from error
        rows = [LayerRow(**row) for row in entry.rows]
        return StoredBlock(weights, rows, _under(tensors, _UNQUANTIZED), entry.training)

    def serves_model(self, name: str | None) -> bool:
        """Whether a set of shared tensors is stored for the whole model, not for one block."""
        shared = self.load_shared()
        return name is not None and shared is not None and bool(_under(shared, name))

    def _save(
        self, file: str, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None
    ) -> StoredFile:
        # Contiguous copies: safetensors refuses strides and tensors that share memory.
        owned = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        beside = {
            f"{_UNQUANTIZED}.{name}": tensor.detach().cpu().clone()
            for name, tensor in (others or {}).items()
        }
        everything = {**owned, **beside}
        write_atomically(self.folder / file, lambda path: save_file(everything, path))
        return StoredFile(
            file=file,
            sha256=_file_digest(self.folder / file),
            tensor_bytes=sum(t.numel() * t.element_size() for t in owned.values()),
            unquantized_bytes=sum(t.numel() * t.element_size() for t in beside.values()),
        )

    def _intact(self, stored: StoredFile) -> bool:
        try:
            return _file_digest(self.folder / stored.file) == stored.sha256
        except (OSError, SafetensorError):
            return False


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
