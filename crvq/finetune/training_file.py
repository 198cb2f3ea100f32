"""A training's state in one file, written whole: it goes on bit for bit where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crvq.files.atomic import write_atomically
from crvq.finetune.curve import CurvePoint
from crvq.finetune.free_values import FreeValues
from crvq.finetune.training import Training, TrainingState

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_training(path: Path, training: Training, free: FreeValues, identity: str) -> None:
    """Write leaves, Adam's moments, the best values and everything that is counted.

    Args:
        path: a safetensors file; the numbers lie in its header, as JSON.
        training: between two steps.
        free: what it trains.
        identity: of all that the training depends on.
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
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    numbers = {key: value for key, value in vars(state).items() if key not in ("best", "points")}
    numbers["points"] = [asdict(point) for point in state.points]
    told = json.dumps({"identity": identity, "updates": updates, "state": numbers})
    write_atomically(path, lambda file: save_file(owned, file, metadata={"training": told}))


def load_training(path: Path, training: Training, free: FreeValues, identity: str) -> bool:
    """Go on from a saved state.

    Returns:
        False if there is none, or it is damaged or that of another training; nothing is changed.
    """
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["training"])
            if told["identity"] != identity:
                return False
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError):
        return False
    best: dict[str, Tensor] = {}
    for name, leaf in free.leaves.items():
        device = leaf.free.device
        leaf.free.copy_(tensors[f"free.{name}"])
        if name in told["updates"]:
            training.optimizer.state[leaf.free] = {
                "step": torch.tensor(told["updates"][name]),
                **{moment: tensors[f"{moment}.{name}"].to(device) for moment in _MOMENTS},
            }
        if f"best.{name}" in tensors:
            best[name] = tensors[f"best.{name}"].to(device)
    numbers = told["state"]
    points = [CurvePoint(**point) for point in numbers.pop("points")]
    training.state = TrainingState(**numbers, best=best or None, points=points)
    return True
