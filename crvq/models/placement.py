"""Where a model's blocks and hidden states are kept while it is worked on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from crvq.errors import ConfigError
from crvq.models.activations import HiddenStates

Placement = Literal["auto", "device", "host", "disk"]

# What the weights may take of free memory: fine-tuning, Hessians and the solver want the rest.
_LARGEST_SHARE = 0.6
_LARGEST_STATES = 0.3


@dataclass(frozen=True)
class Wanted:
    """What a run asks for: the key ``placement``, and what decides where ``auto`` is.

    Args:
        placement: as configured.
        tokens: whose hidden states are held at once.
        folder: where hidden states go on disk.
    """

    placement: Placement
    tokens: int
    folder: Path

    def resolve(self, weights_bytes: int, width: int, device: torch.device) -> Placement:
        """Return where the model goes: never ``auto``.

        Args:
            weights_bytes: of all weights, in the type in which they are held.
            width: of hidden states.
            device: where blocks compute.

        Raises:
            ConfigError: hidden states do not fit on disk.
        """
        states = self.tokens * width * 4
        chosen = self.placement
        if chosen == "auto":
            if weights_bytes <= _LARGEST_SHARE * free_bytes(device):
                return "device"
            free = psutil.virtual_memory().available
            chosen = "host" if states <= _LARGEST_STATES * free else "disk"
        if chosen == "disk":
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if 2 * states > free:
                raise ConfigError(
                    f"placement=disk: hidden states of {self.tokens:,} tokens take "
                    f"{2 * states / 2**30:.1f} GiB, and {self.folder} has {free / 2**30:.1f} GiB "
                    "free; set cache_dir to a larger disk, or use fewer windows "
                    "(calibration.samples, eval.perplexity.*.max_windows)"
                )
        return chosen

    def states(self, chosen: Placement, device: torch.device) -> HiddenStates:
        """Return an empty sequence of hidden states in the place that was resolved."""
        assert chosen in ("host", "disk")
        return HiddenStates("disk" if chosen == "disk" else "host", device, self.folder)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free where a device keeps its tensors."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_memory(
    block_bytes: int, outer_bytes: int, hessian_bytes: int, states_bytes: int, base_bytes: int
) -> int:
    """Return the memory that a streamed quantization takes at most.

    Args:
        block_bytes: weights of the largest block, in the type in which they are held.
        outer_bytes: embeddings, last norm and head.
        hessian_bytes: one float32 matrix for each distinct input of a block's linear layers.
        states_bytes: hidden states of all windows, where they are kept in this memory.
        base_bytes: of the process before a model is loaded.
    """
    # The block's weights in the model and in float32 copies for the method; each Hessian and its
    # inverse's factor.
    return base_bytes + outer_bytes + 2 * block_bytes + 2 * hessian_bytes + states_bytes
