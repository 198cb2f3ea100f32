"""Where a model's blocks and hidden states are kept while it is worked on."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from transformers import PreTrainedModel

from crvq.errors import ConfigError
from crvq.models.activations import HiddenStates
from crvq.models.blocks import find_blocks, find_slots

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


_KERNELS = 160 * 2**20
"""Of numba and the compiled kernels, which are loaded with the first linear layer."""


@dataclass(frozen=True)
class Shapes:
    """What decides how much memory the quantization of a model takes.

    Args:
        block: weights of the largest block.
        outer: weights of embeddings, last norm and head.
        inputs: widths of the distinct inputs of a block's linear layers.
        largest: ``(out, in)`` of the linear layer with the most weights.
        width: of hidden states.
        blocks: how many there are.
        itemsize: bytes of a weight as it is held.
    """

    block: int
    outer: int
    inputs: tuple[int, ...]
    largest: tuple[int, int]
    width: int
    blocks: int
    itemsize: int


def peak_memory(
    shapes: Shapes, placement: Placement, tokens: int, copies: int = 1
) -> dict[str, int]:
    """Return the memory that a quantization takes at most by part, in bytes, without libraries.

    Args:
        shapes: of the model.
        placement: not ``auto``.
        tokens: of all windows whose hidden states are held.
        copies: how often hidden states are held: twice where a block is trained on its targets.
    """
    in_features = shapes.largest[1]
    hessians = sum(4 * width * width for width in shapes.inputs)
    whole = shapes.blocks if placement == "device" else 1
    return {
        "embeddings and head": shapes.outer * shapes.itemsize,
        "blocks in memory": whole * shapes.block * shapes.itemsize,
        # The method works on float32 copies of a block's weights.
        "weights of a block": 4 * shapes.block,
        # H of each input, and the factor of its inverse.
        "Hessians": 2 * hessians,
        # H in coded order twice; W, W H, both in coded order, decoded and as errors.
        "solver": 4 * (2 * in_features**2 + 6 * math.prod(shapes.largest)) + _KERNELS,
        "hidden states": 0 if placement == "disk" else 4 * copies * tokens * shapes.width,
    }


def shapes_of(model: PreTrainedModel) -> Shapes:
    """Return a model's shapes; its weights may be on the meta device."""
    _, blocks = find_blocks(model)
    sizes = [sum(one.numel() for one in block.parameters()) for block in blocks]
    block = blocks[sizes.index(max(sizes))]
    linears = [slot.shape for slot in find_slots(block)]
    # Without a forward pass: layers of one parent module that are equally wide read one input.
    inputs = {
        (slot.kind.rpartition(".")[0], slot.shape[1]): slot.shape[1]
        for slot in find_slots(block)
        if slot.expert is None
    }
    outputs = [
        slot.shape[1] for slot in find_slots(block) if slot.kind.endswith(("o_proj", "out_proj"))
    ]
    config = model.config.get_text_config()
    return Shapes(
        block=max(sizes),
        outer=sum(one.numel() for one in model.parameters()) - sum(sizes),
        inputs=(*inputs.values(), *outputs),
        largest=max(linears, key=lambda shape: (math.prod(shape), shape[1])),
        width=int(config.hidden_size),
        blocks=len(blocks),
        itemsize=model.dtype.itemsize,
    )
