"""The safetensors files of a model, read tensor by tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crvq.errors import SourceError

_AT_ONCE = 1 << 23
"""Values read at once."""
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class WeightFiles:
    """Where each tensor of a model is stored; nothing of it is held in memory.

    Args:
        folder: of the model.
        files: file name by tensor name.
        shapes: by tensor name.
    """

    folder: Path
    files: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, folder: Path) -> WeightFiles:
        """Read the headers of all files.

        Raises:
            SourceError: a file is missing or damaged, or the index names a tensor that its file
                does not hold.
        """
        index = folder / INDEX_FILE
        single = folder / "model.safetensors"
        listed: dict[str, str] | None = None
        if single.is_file():
            names = [single.name]
        elif index.is_file():
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(listed.values()))
        else:
            names = sorted(file.name for file in folder.glob("*.safetensors"))
        files: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            try:
                with safe_open(folder / name, "pt") as opened:
                    for key in opened.keys():  # noqa: SIM118 - not a mapping
                        files[key] = name
                        shapes[key] = tuple(opened.get_slice(key).get_shape())
            except (OSError, SafetensorError) as error:
                raise SourceError(f"{folder / name} cannot be read: {error}") from error
        if listed is not None:
            for key, name in listed.items():
                if files.get(key) != name:
                    raise SourceError(
                        f"{index} says that {name} holds {key}, and it does not: the checkpoint's "
                        "files do not belong together; get all of them again"
                    )
        return cls(folder, files, shapes)

    def read(self, names: Mapping[str, str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return tensors, floating-point ones converted to ``dtype``.

        Args:
            names: stored name by the name under which the tensor is returned.
            dtype: of the result.

        Raises:
            SourceError: a file cannot be read any more, or holds NaN or infinity.
        """
        by_file: dict[str, list[str]] = {}
        for wanted, stored in names.items():
            by_file.setdefault(self.files[stored], []).append(wanted)
        found = {}
        for file, wanted_names in by_file.items():
            for wanted in wanted_names:
                found[wanted] = self._read_one(self.folder / file, names[wanted], dtype)
        return found

    def _read_one(self, path: Path, name: str, dtype: torch.dtype) -> Tensor:
        shape = self.shapes[name]
        rows = shape[0] if shape else 1
        step = max(1, _AT_ONCE * rows // max(1, math.prod(shape)))
        whole: Tensor | None = None
        for first in range(0, rows, step):
            try:
                # Opened again for each part: pages of a mapped file count as memory until then.
                with safe_open(path, "pt") as opened:
                    if not shape:
                        part = opened.get_tensor(name)
                    else:
                        part = opened.get_slice(name)[first : first + step]
                    kind = dtype if part.is_floating_point() else part.dtype
                    if whole is None:
                        whole = torch.empty(shape, dtype=kind)
                    own = whole[first : first + step] if shape else whole
                    own.copy_(part)
            except (OSError, SafetensorError) as error:
                raise SourceError(f"{path} cannot be read: {error}") from error
            if own.is_floating_point() and not bool(torch.isfinite(own).all()):
                raise SourceError(
                    f"{name} of {self.folder} holds NaN or infinity: the weights are damaged, or "
                    "too large for model.dtype; get them again or set model.dtype=float32"
                )
        assert whole is not None
        return whole
