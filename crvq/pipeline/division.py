"""A block's linear layers divided among the processes of a team."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from safetensors.torch import load, save
from torch import Tensor

from crvq.methods import LinearInput, Method, QuantizedLinear
from crvq.team import team
from crvq.tracking.events import LayerRow
from crvq.weights.formats import unpack_weight
from crvq.weights.quantized import QuantizedWeight

ToRow = Callable[[int, QuantizedLinear], LayerRow]


def divided(
    method: Method, block: int, inputs: Sequence[LinearInput], to_row: ToRow
) -> Iterator[tuple[LayerRow, QuantizedWeight]]:
    """Quantize a block's linear layers, each in one process; all get all of them.

    Alone, a process yields each as it is done; of a team, in the order of ``inputs``.

    Args:
        method: quantizes.
        block: index.
        inputs: the layers, the same in all processes.
        to_row: says in a row what a layer came to.
    """
    if team().size == 1:
        for result in method.quantize_block(block, inputs):
            yield to_row(block, result), result.weight
        return
    owners = owners_of(inputs, team().size if method.divides_blocks else 1)
    own = [one for one, owner in zip(inputs, owners, strict=True) if owner == team().rank]
    done = {result.source.name: result for result in method.quantize_block(block, own)}
    for one, owner in zip(inputs, owners, strict=True):
        payload = b""
        if one.name in done:
            result = done.pop(one.name)
            payload = _packed(to_row(block, result), result.weight)
        yield _unpacked(team().share(payload, owner))


def owners_of(inputs: Sequence[LinearInput], processes: int) -> list[int]:
    """Return which process quantizes each layer: the costliest first, to the least busy."""
    costs = [one.weight.numel() * one.weight.shape[1] for one in inputs]
    busy = [0] * processes
    owners = [0] * len(inputs)
    for place in sorted(range(len(inputs)), key=lambda place: (-costs[place], place)):
        owners[place] = min(range(processes), key=lambda process: (busy[process], process))
        busy[owners[place]] += costs[place]
    return owners


def _packed(row: LayerRow, weight: QuantizedWeight) -> bytes:
    shared = weight.shared()
    tensors = {f"own.{name}": tensor.cpu() for name, tensor in weight.pack().items()}
    if shared is not None:
        tensors |= {f"shared.{name}": tensor.cpu() for name, tensor in shared[1].items()}
    summary = {"row": json.dumps(asdict(row)), "header": json.dumps(weight.header())}
    return save({name: one.contiguous() for name, one in tensors.items()}, metadata=summary)


def _unpacked(payload: bytes) -> tuple[LayerRow, QuantizedWeight]:
    # safetensors.torch.load leaves the metadata out: it is in the header, whose length comes first.
    length = int.from_bytes(payload[:8], "little")
    summary = json.loads(payload[8 : 8 + length])["__metadata__"]
    tensors = load(payload)
    parts: dict[str, dict[str, Tensor]] = {"own": {}, "shared": {}}
    for name, tensor in tensors.items():
        kind, _, own = name.partition(".")
        parts[kind][own] = tensor
    weight = unpack_weight(json.loads(summary["header"]), parts["own"], parts["shared"])
    return LayerRow(**json.loads(summary["row"])), weight
