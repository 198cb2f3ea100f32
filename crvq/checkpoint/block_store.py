"""A folder of packed blocks that a run adds to, and goes on from after it was killed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
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
from crvq.files.aside import move_aside
from crvq.files.atomic import write_atomically
from crvq.files.digests import file_digest
from crvq.tracking.events import LayerRow
from crvq.weights.quantized import QuantizedWeight, unpack_weight

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
        cls, folder: Path, fingerprint: dict[str, Any], tolerated: Collection[str] = ()
    ) -> tuple[BlockStore, str | None]:
        """Open a folder to resume, or start over where its blocks were made from something else.

        Nothing is deleted: blocks that cannot be continued are moved to ``superseded/`` in the
        parent folder.

        Args:
            folder: of the checkpoint.
            fingerprint: what the blocks are made from.
            tolerated: keys of the fingerprint that may differ, since they change only how sums
                round.

        Returns:
            The store, and a message if blocks were moved aside or are continued although
            something differs.

        Raises:
            CheckpointError: a newer version wrote the folder.
        """
        try:
            manifest = read_manifest(folder)
        except DamagedManifestError as error:
            return cls._start_over(folder, fingerprint, str(error))
        if manifest is None:
            return cls(folder, Manifest(fingerprint=fingerprint)), None
        differing = [
            f"{key}: {manifest.fingerprint.get(key)} then, {fingerprint.get(key)} now"
            for key in sorted(fingerprint.keys() | manifest.fingerprint.keys())
            if fingerprint.get(key) != manifest.fingerprint.get(key)
        ]
        if not differing:
            return cls(folder, manifest), None
        if all(line.partition(":")[0] in tolerated for line in differing):
            return cls(folder, manifest), (
                f"resuming although something differs ({'; '.join(differing)}): the result is as "
                "good, but not bit-identical with that of an uninterrupted run"
            )
        reason = f"{len(manifest.blocks)} packed blocks were made from something else"
        return cls._start_over(folder, fingerprint, f"{reason} ({'; '.join(differing)})")

    @classmethod
    def _start_over(
        cls, folder: Path, fingerprint: dict[str, Any], reason: str
    ) -> tuple[BlockStore, str]:
        kept = move_aside(folder, folder.parent)
        message = f"{reason}; starting over, they are kept in {kept}"
        return cls(folder, Manifest(fingerprint=fingerprint)), message

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

    def holds(self, block: int) -> bool:
        """Return whether a block is stored and undamaged."""
        entry = self._manifest.blocks.get(block)
        return entry is not None and self.is_intact(entry)

    def recorded_digest(self, block: int) -> str | None:
        """Return the SHA-256 that a block's file should have; None if none was stored."""
        entry = self._manifest.blocks.get(block)
        return None if entry is None else entry.sha256

    def drop_after(self, block: int) -> list[str]:
        """Move all later blocks aside; return a message about each."""
        messages = []
        for later in sorted(number for number in self._manifest.blocks if number > block):
            entry = self._manifest.blocks.pop(later)
            self._manifest.write(self.folder)
            path = self.folder / entry.file
            if path.exists():
                kept = move_aside(path, self.folder.parent)
                messages.append(
                    f"block {later} was made from another block {block} than the present one: it "
                    f"is quantized again, and the earlier one is kept in {kept}"
                )
        return messages

    def intact_blocks(self) -> list[int]:
        """Return the numbers of the blocks that are stored and undamaged."""
        return [block for block in sorted(self._manifest.blocks) if self.holds(block)]

    def whole_blocks(self) -> int:
        """How many blocks from the first on are there and undamaged."""
        count = 0
        while count in self._manifest.blocks and self.is_intact(self._manifest.blocks[count]):
            count += 1
        return count

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all quantized tensors, shared ones once."""
        return sum(file.tensor_bytes for file in self.files())

    @property
    def unquantized_bytes(self) -> int:
        """Bytes of all trained norms and biases."""
        return sum(file.unquantized_bytes for file in self.files())

    def files(self) -> list[StoredFile]:
        """Return all files that the manifest names."""
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
            if not self.is_intact(self._manifest.shared):
                return None
            self._shared = load_file(self.folder / self._manifest.shared.file)
        return self._shared

    @property
    def training(self) -> dict[str, Any] | None:
        """What fine-tuning the whole model told; None if it was not, or not wholly stored."""
        return self._manifest.training

    def finish_training(self, training: dict[str, Any]) -> None:
        """Mark everything of a model trained as a whole as stored."""
        self._manifest.training = training
        self._manifest.write(self.folder)

    def save_outer(self, tensors: Mapping[str, Tensor]) -> None:
        """Store trained norms and biases that belong to no block, by their name in the model."""
        self._manifest.outer = self._save(_OUTER_FILE, {}, tensors)
        self._manifest.write(self.folder)

    def outer_is_intact(self) -> bool:
        """Return whether what `save_outer` stored, if anything, is undamaged."""
        return self._manifest.outer is None or self.is_intact(self._manifest.outer)

    def load_outer(self) -> dict[str, Tensor]:
        """Trained norms and biases that belong to no block; none, if none were stored.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        if self._manifest.outer is None:
            return {}
        if not self.is_intact(self._manifest.outer):
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
        if entry is None or not self.is_intact(entry):
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
            except (KeyError, ValueError) as error:
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
            sha256=file_digest(self.folder / file),
            tensor_bytes=sum(t.numel() * t.element_size() for t in owned.values()),
            unquantized_bytes=sum(t.numel() * t.element_size() for t in beside.values()),
        )

    def is_intact(self, stored: StoredFile) -> bool:
        """Return whether a file has the content that was stored."""
        try:
            return file_digest(self.folder / stored.file) == stored.sha256
        except (OSError, SafetensorError):
            return False


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
