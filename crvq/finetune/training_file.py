"""A training's state in one file: a resumed training continues bit-identically.

The file carries its digest, and the state before it is kept next to it: damage costs the steps
between two saves, or the training where both are damaged, and never goes unnoticed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crvq.files.digested import DamagedFileError, load_digested_tensors, save_digested_tensors
from crvq.finetune.curve import CurvePoint
from crvq.finetune.free_values import FreeValues
from crvq.finetune.training import Training, TrainingState

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Resumption:
    """Whether a training continues from a saved state."""

    resumed: bool
    """False: it starts at step 0, and nothing was changed."""
    message: str | None = None
    """What was damaged and what that costs, for the user; None if nothing was."""


def save_training(path: Path, training: Training, free: FreeValues, identity: str) -> None:
    """Write leaves, Adam's moments, the best values and all counters; keep the state before.

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
    tensors |= {f"best.{name}": value for name, value in (state.best or {}).items()}
    numbers = {key: value for key, value in vars(state).items() if key not in ("best", "points")}
    numbers["points"] = [asdict(point) for point in state.points]
    header = json.dumps({"identity": identity, "updates": updates, "state": numbers})
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
        if header["identity"] != identity or not _fits(tensors, header, free):
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


def previous_state(path: Path) -> Path:
    """Return where the state before the last one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _fits(tensors: dict[str, Tensor], header: dict[str, Any], free: FreeValues) -> bool:
    """Whether every leaf has its values and moments: the whole state is used or none of it."""
    for name, leaf in free.leaves.items():
        wanted = [f"free.{name}"]
        if name in header["updates"]:
            wanted += [f"{moment}.{name}" for moment in _MOMENTS]
        for key in wanted:
            if key not in tensors or tensors[key].shape != leaf.free.shape:
                return False
    return True


def _restore(
    tensors: dict[str, Tensor], header: dict[str, Any], training: Training, free: FreeValues
) -> None:
    best: dict[str, Tensor] = {}
    for name, leaf in free.leaves.items():
        device = leaf.free.device
        leaf.free.copy_(tensors[f"free.{name}"])
        if name in header["updates"]:
            training.optimizer.state[leaf.free] = {
                "step": torch.tensor(header["updates"][name]),
                **{moment: tensors[f"{moment}.{name}"].to(device) for moment in _MOMENTS},
            }
        if f"best.{name}" in tensors:
            best[name] = tensors[f"best.{name}"].to(device)
    numbers = header["state"]
    points = [CurvePoint(**point) for point in numbers.pop("points")]
    training.state = TrainingState(**numbers, best=best or None, points=points)
