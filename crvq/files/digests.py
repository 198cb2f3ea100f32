"""Digests of files and of plain values, to notice damage when something is read back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_digest(values: Any) -> str:  # noqa: ANN401 - whatever JSON can say
    """Return the SHA-256 of canonical JSON, in hex; the order of keys does not matter."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
