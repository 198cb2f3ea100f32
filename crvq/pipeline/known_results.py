"""Full-precision results, remembered between runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from crvq.files.atomic import write_json


@dataclass(frozen=True)
class KnownResults:
    """Results by all that they depend on; a changed weight, type, device or version is a miss."""

    cache: Path
    """Cache folder."""
    weights: str
    """Digest of the model's weights."""
    activation_dtype: torch.dtype
    device: torch.device

    def find(self, *parts: str | int) -> dict[str, Any] | None:
        """What was kept under ``parts``; None if nothing was, or it is damaged."""
        try:
            found = json.loads(self._file(parts).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep(self, values: dict[str, Any], *parts: str | int) -> None:
        """Remember ``values`` (what JSON can say) under ``parts``: name and inputs of a metric."""
        write_json(self._file(parts), values)

    def _file(self, parts: tuple[Any, ...]) -> Path:
        everything = [
            self.weights,
            *parts,
            str(self.activation_dtype),
            self.device.type,
            torch.__version__,
            transformers.__version__,
        ]
        name = hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:32]
        return self.cache / "full_precision" / f"{name}.json"
