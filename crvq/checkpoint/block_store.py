"""A folder of packed blocks: a run adds to it, and a killed run resumes from it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from crvq.checkpoint.manifest import (
    MANIFEST_FILE,
    BlockEntry,
    DamagedManifestError,
    Manifest,
    StoredFile,
    read_manifest,
)
from crvq.checkpoint.model_shapes import ModelShapes, check_unquantized
from crvq.checkpoint.tensor_file import is_intact, read_tensors, save_tensors
from crvq.errors import CheckpointError
from crvq.files.atomic import move_aside
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.events import LayerRow
from crvq.weights.fields import FormatError
from crvq.weights.formats import unpack_weight
from crvq.weights.quantized import QuantizedWeight

_SHARED_FILE, _OUTER_FILE = "shared.safetensors", "outer.safetensors"
_UNQUANTIZED = "unquantized"  # before the names of trained norms and biases in a block's file
_ROW = TypeAdapter(LayerRow)
_SUMMARY, _POINTS = TypeAdapter(TrainingSummary), TypeAdapter(list[CurvePoint])


@dataclass(frozen=True)
class StoredBlock:
    """A block read back."""

    weights: dict[str, QuantizedWeight]
    """By kind of linear."""
    rows: list[LayerRow]
    others: dict[str, Tensor] = field(default_factory=dict)
    """Trained norms and biases, by their name in the block."""
    training: dict[str, Any] | None = None
    """Summary and curve of the block's fine-tuning."""


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

    def whole_blocks(self) -> int:
        """Return how many blocks from the first on are there and undamaged."""
        count = 0
        while self.holds(count):
            count += 1
        return count

    def holds(self, block: int) -> bool:
        """Return whether a block is there and undamaged (its file has the manifest's digest)."""
        entry = self._manifest.blocks.get(block)
        return entry is not None and is_intact(self.folder, entry)

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

    def files(self) -> list[StoredFile]:
        """Return all files that the manifest names."""
        return self._manifest.files()

    def is_intact(self, stored: StoredFile) -> bool:
        """Return whether a file has the content that was stored."""
        return is_intact(self.folder, stored)

    def outer_is_intact(self) -> bool:
        """Return whether what `save_outer` stored, if anything, is undamaged."""
        return self._manifest.outer is None or self.is_intact(self._manifest.outer)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all quantized tensors, shared ones once."""
        return sum(file.tensor_bytes for file in self._manifest.files())

    @property
    def unquantized_bytes(self) -> int:
        """Bytes of all trained norms and biases."""
        return sum(file.unquantized_bytes for file in self._manifest.files())

    def digest(self) -> str:
        """SHA-256 over the digests of all files: equal for equal quantized models."""
        summed = hashlib.sha256()
        for serving in (self._manifest.shared, self._manifest.outer):
            if serving is not None:
                summed.update(serving.sha256.encode())
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
            if not is_intact(self.folder, self._manifest.shared):
                return None
            self._shared = read_tensors(self.folder / self._manifest.shared.file)
        return self._shared

    @property
    def plan(self) -> dict[str, Any] | None:
        """What the method decided before the first block; None until it has."""
        return self._manifest.plan

    def save_plan(self, plan: dict[str, Any]) -> None:
        """Store what the method decided."""
        self._manifest.plan = plan
        self._manifest.write(self.folder)

    @property
    def training(self) -> dict[str, Any] | None:
        """Summary and curve of fine-tuning the whole model; None until all of it is stored.

        Raises:
            CheckpointError: they are not what a training leaves.
        """
        return self._checked_training(self._manifest.training, "training")

    def finish_training(self, training: dict[str, Any]) -> None:
        """Record that everything of a model trained as a whole is stored."""
        self._manifest.training = training
        self._manifest.write(self.folder)

    def save_outer(self, tensors: Mapping[str, Tensor]) -> None:
        """Store trained norms and biases that belong to no block, by their name in the model."""
        self._manifest.outer = self._save(_OUTER_FILE, {}, tensors)
        self._manifest.write(self.folder)

    def load_outer(self, shapes: ModelShapes | None = None) -> dict[str, Tensor]:
        """Return trained norms and biases that belong to no block; none, if none were stored.

        Args:
            shapes: of the model that they are for, if it is known.

        Raises:
            CheckpointError: they are missing, damaged, or do not fit the model.
        """
        outer = self._manifest.outer
        if outer is None:
            return {}
        path = self.folder / outer.file
        if not is_intact(self.folder, outer):
            raise CheckpointError(f"{path} is missing or damaged")
        found = _under(read_tensors(path), _UNQUANTIZED)
        try:
            check_unquantized(found, shapes)
        except FormatError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return found

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
            training: summary and curve of fine-tuning, as plain values.
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

    def load_block(self, block: int, shapes: ModelShapes | None = None) -> StoredBlock:
        """Read a block back.

        Nothing much larger than the block's file is allocated before headers are checked, against
        the tensors and, if they are known, against the model's shapes.

        Args:
            block: its number.
            shapes: of the model's block that it is for, if it is known.

        Raises:
            CheckpointError: it is missing, damaged, or does not fit; names the file and the field.
        """
        entry = self._manifest.blocks.get(block)
        if entry is None or not is_intact(self.folder, entry):
            raise CheckpointError(f"block {block} in {self.folder} is missing or damaged")
        path = self.folder / entry.file
        tensors = read_tensors(path)
        others = _under(tensors, _UNQUANTIZED)
        weights: dict[str, QuantizedWeight] = {}
        used = {f"{_UNQUANTIZED}.{name}" for name in others}
        kind = _UNQUANTIZED
        try:
            check_unquantized(others, shapes)
            for kind, header in entry.linears.items():
                shape = None if shapes is None else shapes.linear(kind)
                own, together = _under(tensors, kind), self._set_of(header, tensors)
                weights[kind] = unpack_weight(header, own, together, shape)
                used |= {f"{kind}.{name}" for name in own}
                used |= {f"{header.get('codebook_set')}.{name}" for name in together}
        except FormatError as error:
            raise CheckpointError(f"{path}: {kind}: {error}") from error
        if unknown := sorted(tensors.keys() - used):
            raise CheckpointError(f"{path}: {unknown[0]!a:.100}: no linear has this tensor")
        rows = [self._checked_row(row, f"blocks.{block}.rows") for row in entry.rows]
        training = self._checked_training(entry.training, f"blocks.{block}.training")
        return StoredBlock(weights, rows, others, training)

    def _set_of(
        self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the tensors of the set that a header names, from the block's file or the model's.

        Raises:
            FormatError: the set is missing.
        """
        name = header.get("codebook_set")
        if name is None:
            return {}
        if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
            raise FormatError("codebook_set", f"cannot be {name!a:.60}")
        source = (self.load_shared() or {}) if self.serves_model(name) else tensors
        found = _under(source, name)
        if not found:
            raise FormatError(
                "codebook_set",
                f"needs the shared tensors {name!r}, and {_SHARED_FILE} is missing or damaged",
            )
        return found

    def _checked_row(self, values: dict[str, Any], field: str) -> LayerRow:
        try:
            return _ROW.validate_python(values)
        except ValidationError as error:
            raise self._damaged(field, error) from None

    def _checked_training(self, values: dict[str, Any] | None, field: str) -> dict[str, Any] | None:
        """Check that `crvq.tracking.events.training_from_dict` can read the values."""
        if values is None:
            return None
        known = {"summary": TrainingSummary, "points": CurvePoint}
        try:
            _SUMMARY.validate_python(values.get("summary"))
            _POINTS.validate_python(values.get("points"))
        except ValidationError as error:
            raise self._damaged(field, error) from None
        for name, kind in known.items():
            parts = values[name] if name == "points" else [values[name]]
            if any(part.keys() - {one.name for one in fields(kind)} for part in parts):
                raise CheckpointError(f"{self.folder / MANIFEST_FILE}: {field}.{name}: unknown key")
        return values

    def _damaged(self, field: str, error: ValidationError) -> CheckpointError:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([field, *(f"{one!a:.40}" for one in first["loc"])])
        return CheckpointError(f"{self.folder / MANIFEST_FILE}: {place}: {first['msg']}")

    def serves_model(self, name: str | None) -> bool:
        """Whether a set of shared tensors is stored for the whole model, not for one block."""
        shared = self.load_shared()
        return name is not None and shared is not None and bool(_under(shared, name))

    def _save(
        self, file: str, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None
    ) -> StoredFile:
        unquantized = {f"{_UNQUANTIZED}.{name}": one for name, one in (others or {}).items()}
        return save_tensors(self.folder / file, tensors, unquantized)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    named = tensors.items()
    return {name.removeprefix(start): one for name, one in named if name.startswith(start)}
