"""What results depend on: fingerprints of blocks, and full-precision results kept by theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crvq.config import RunConfig
from crvq.files.digests import DamagedFileError, read_digested_json
from crvq.models.digest import model_digest, tensor_digest
from crvq.models.precision import compute_kind
from crvq.sources.cache import remember
from crvq.tracking.run_id import algorithm

__all__ = ["ROUNDING_ONLY", "derived_seed", "fingerprint", "model_digest", "tensor_digest"]

ROUNDING_ONLY = frozenset({"threads", "torch"})
"""Keys of a fingerprint that change only how sums round: a run resumes although they differ."""


def fingerprint(
    config: RunConfig,
    weights: str,
    windows: Tensor,
    activation_dtype: torch.dtype,
    device_type: str = "cpu",
    fitted: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that packed blocks depend on; a run resumes only if the fingerprints match.

    Args:
        config: the run's.
        weights: `model_digest` of the full-precision model.
        windows: calibration tokens.
        activation_dtype: of forward passes.
        device_type: where blocks are quantized.
        fitted: parameters that a budget changed: its rule may not be what it was.
    """
    return {
        **config.identity(),
        "algorithm": algorithm(config),
        "model_sha256": weights,
        "calibration_tokens_sha256": tensor_digest(windows),
        "activation_dtype": str(activation_dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device_type": device_type,
        **({"fitted": fitted} if fitted else {}),
    }


def derived_seed(seed: int, name: str) -> int:
    """Return a separate seed for each named thing, independent of what was drawn before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


REVISION = 1
"""Of the measurements in `crvq.evaluation`; a change of their results needs the next number."""


@dataclass(frozen=True)
class KnownResults:
    """Results by everything that they depend on; a change of any of it is a miss.

    Args:
        cache: the cache folder.
        model: from `crvq.models.digest.model_digest`: weights and configuration.
        activation_dtype: of forward passes.
        device: where they are computed.
    """

    cache: Path
    model: str
    activation_dtype: torch.dtype
    device: torch.device

    def find(self, *parts: str | int) -> dict[str, Any] | None:
        """Return what was kept under ``parts``; None if nothing was, or it is damaged."""
        made_from = self._made_from(parts)
        try:
            found = read_digested_json(self._file(made_from))
        except (OSError, DamagedFileError):
            return None
        # The file's name is a short digest, and files can be copied or renamed.
        known = isinstance(found, dict) and found.get("made_from") == made_from
        values = found.get("values") if known else None
        return values if isinstance(values, dict) else None

    def keep(self, values: dict[str, Any], *parts: str | int) -> None:
        """Remember ``values`` (what JSON can express).

        Args:
            values: the result.
            parts: name of the metric and everything of its protocol: tokens, tokenizer, context.
        """
        made_from = self._made_from(parts)
        remember(self._file(made_from), {"made_from": made_from, "values": values})

    def _made_from(self, parts: Sequence[str | int]) -> list[Any]:
        return [
            REVISION,
            self.model,
            *parts,
            str(self.activation_dtype),
            compute_kind(self.device),
            f"torch {torch.__version__}",
            f"transformers {version('transformers')}",
        ]

    def _file(self, made_from: list[Any]) -> Path:
        name = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
        return self.cache / "full_precision" / f"{name}.json"
