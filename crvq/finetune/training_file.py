"""A training's state in one file: a resumed training continues bit-identically.

The file carries its digest, and the state before it is kept next to it: damage costs the steps
between two saves, or the training where both are damaged, and never goes unnoticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crvq.files.digests import DamagedFileError, load_digested_tensors, save_digested_tensors
from crvq.finetune.curve import CurvePoint
from crvq.finetune.free_values import FreeValues, Snapshot
from crvq.finetune.training import Training, TrainingState
from crvq.weights.formats import unpack_weight
from crvq.weights.quantized import QuantizedWeight

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUFFER = ("wish", "rows", "columns")


@dataclass(frozen=True)
class Resumption:
    """Whether a training continues from a saved state."""

    resumed: bool
    """False: it starts at step 0, and nothing was changed."""
    message: str | None = None
    """What was damaged and what that costs, for the user; None if nothing was."""


def save_training(path: Path, training: Training, free: FreeValues, identity: str) -> None:
    """Write leaves, Adam's moments, codes, the best weights and all counters.

    Weights are packed as a checkpoint packs them, so codes take their few bits. The state before
    is kept.

    Args:
        path: a safetensors file; the numbers are in its header, as JSON.
        training: between two steps.
        free: what it trains.
        identity: of everything that the training depends on.
    """
    state = training.state
    tensors: dict[str, Tensor] = {}
    updates: dict[str, float] = {}
    for name, leaf in free.leaves.items():
        tensors[f"free.{name}"] = leaf.free
        moments = training.optimizer.state.get(leaf.free)
        if moments:
            updates[name] = float(moments["step"])
            tensors |= {f"{moment}.{name}": moments[moment] for moment in _MOMENTS}
    packed = {}
    if state.best is not None:
        packed["best"] = _pack(tensors, "best", state.best.weights)
        tensors |= {f"others.{name}": value for name, value in state.best.others.items()}
    buffers = {}
    if training.codes is not None:
        packed["codes"] = _pack(tensors, "codes", free.coded_weights())
        for name, buffer in training.codes.buffers.items():
            buffers[name] = [buffer.updates, buffer.probes]
            tensors |= {f"{part}.{name}": getattr(buffer, part) for part in _BUFFER}
    numbers = {key: value for key, value in vars(state).items() if key not in ("best", "points")}
    numbers["points"] = [asdict(point) for point in state.points]
    header = json.dumps(
        {
            "identity": identity,
            "updates": updates,
            "buffers": buffers,
            "damping": None if training.codes is None else training.codes.damping,
            "weights": packed,
            "state": numbers,
        }
    )
    if path.exists():
        # A crash between the two renames leaves the state before, which `load_training` finds.
        os.replace(path, previous_state(path))
    save_digested_tensors(path, tensors, {"training": header})


def load_training(path: Path, training: Training, free: FreeValues, identity: str) -> Resumption:
    """Put a training where its last intact state was saved.

    Args:
        path: as for `save_training`.
        training: new, at step 0.
        free: what it trains.
        identity: of everything that the training depends on; another one's state is not used.
    """
    damaged = []
    for file in (path, previous_state(path)):
        try:
            tensors, metadata = load_digested_tensors(file)
        except FileNotFoundError:
            continue
        except DamagedFileError:
            damaged.append(file)
            continue
        header = json.loads(metadata["training"])
        if header["identity"] != identity or not _fits(tensors, header, training, free):
            continue
        _restore(tensors, header, training, free)
        message = None
        if damaged:
            step = training.state.step
            message = f"{path} is damaged: training resumes from the state before it, step {step}"
        return Resumption(True, message)
    if damaged:
        names = " and ".join(str(file) for file in damaged)
        return Resumption(False, f"{names}: damaged, so training starts over")
    return Resumption(False)


def is_of_another_training(path: Path, identity: str) -> bool:
    """Return whether an intact state of a training with another identity is saved here."""
    try:
        _, metadata = load_digested_tensors(path)
    except (FileNotFoundError, DamagedFileError):
        return False
    return bool(json.loads(metadata["training"])["identity"] != identity)


def previous_state(path: Path) -> Path:
    """Return where the state before the last one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _fits(
    tensors: dict[str, Tensor], header: dict[str, Any], training: Training, free: FreeValues
) -> bool:
    """Whether every leaf has its values and moments: the whole state is used or none of it."""
    expected: dict[str, Tensor] = {}
    for name, leaf in free.leaves.items():
        expected[f"free.{name}"] = leaf.free
        if name in header["updates"]:
            expected |= {f"{moment}.{name}": leaf.free for moment in _MOMENTS}
    buffers = {} if training.codes is None else training.codes.buffers
    for name, buffer in buffers.items():
        expected |= {f"{part}.{name}": getattr(buffer, part) for part in _BUFFER}
    if header.get("buffers", {}).keys() != buffers.keys() or "weights" not in header:
        return False
    return all(
        key in tensors and tensors[key].shape == value.shape for key, value in expected.items()
    )


def _restore(
    tensors: dict[str, Tensor], header: dict[str, Any], training: Training, free: FreeValues
) -> None:
    for name, leaf in free.leaves.items():
        device = leaf.free.device
        leaf.free.copy_(tensors[f"free.{name}"])
        if name in header["updates"]:
            training.optimizer.state[leaf.free] = {
                "step": torch.tensor(header["updates"][name]),
                **{moment: tensors[f"{moment}.{name}"].to(device) for moment in _MOMENTS},
            }
    if training.codes is not None:
        free.load_codes(_unpack(tensors, "codes", header["weights"]["codes"]))
        training.codes.damping = header["damping"]
        for name, buffer in training.codes.buffers.items():
            buffer.updates, buffer.probes = header["buffers"][name]
            for part in _BUFFER:
                getattr(buffer, part).copy_(tensors[f"{part}.{name}"])
    best = None
    if "best" in header["weights"]:
        others = {name: tensors[f"others.{name}"] for name in free.start.others}
        best = Snapshot(_unpack(tensors, "best", header["weights"]["best"]), others)
    numbers = header["state"]
    points = [CurvePoint(**point) for point in numbers.pop("points")]
    training.state = TrainingState(**numbers, best=best, points=points)


def _pack(
    tensors: dict[str, Tensor], group: str, weights: Mapping[str, QuantizedWeight]
) -> dict[str, dict[str, Any]]:
    """Add packed weights to ``tensors``; return their headers. Shared codebooks are kept once."""
    for name, weight in weights.items():
        # Copies: snapshots may share tensors, and a safetensors file holds each once.
        packed = {f"{group}.{name}/{key}": part.clone() for key, part in weight.pack().items()}
        tensors.update(packed)
        if (shared := weight.shared()) is not None:
            parts = {f"{group}/sets.{shared[0]}/{key}": one for key, one in shared[1].items()}
            tensors.update((key, one.clone()) for key, one in parts.items())
    return {name: weight.header() for name, weight in weights.items()}


def _unpack(
    tensors: Mapping[str, Tensor], group: str, headers: Mapping[str, dict[str, Any]]
) -> dict[str, QuantizedWeight]:
    weights = {}
    for name, header in headers.items():
        own = _below(tensors, f"{group}.{name}/")
        name_of_set = header.get("codebook_set")
        shared = {} if name_of_set is None else _below(tensors, f"{group}/sets.{name_of_set}/")
        weights[name] = unpack_weight(header, own, shared)
    return weights


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
