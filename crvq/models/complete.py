"""Check that a model holds exactly the tensors of its files, before it is used or cached."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crvq.errors import SourceError
from crvq.models.blocks import find_blocks

_LISTED = 8


def check_complete(model: nn.Module, info: dict[str, Any], where: str) -> None:
    """Refuse a model with parameters that did not come from its files, or files with more blocks.

    transformers fills missing parameters with random numbers and leaves superfluous tensors out,
    and only warns of it; either way the result is another model than the one in the files.

    Args:
        model: from ``from_pretrained``.
        info: its loading info (``output_loading_info=True``).
        where: folder, file or repository, for the message.

    Raises:
        SourceError: missing tensors, tensors of another shape or without a value, or tensors of
            the model's blocks that the model has no parameter for. The message names them.
    """
    kind = type(model).__name__
    if missing := sorted(info.get("missing_keys") or ()):
        raise SourceError(
            f"the weights in {where} lack {len(missing)} tensors of a {kind}: {_some(missing)}. "
            "The checkpoint is cut, split, or of another architecture than its config says; get "
            "all of its files"
        )
    if mismatched := sorted(info.get("mismatched_keys") or ()):
        names = [str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in mismatched]
        raise SourceError(
            f"{len(names)} tensors in {where} have another shape than a {kind} of this config: "
            f"{_some(names)}; the config belongs to another checkpoint"
        )
    if failed := [*(info.get("error_msgs") or ()), *(info.get("conversion_errors") or ())]:
        raise SourceError(f"the weights in {where} cannot be read: {'; '.join(map(str, failed))}")
    if unused := _of_blocks(model, info.get("unexpected_keys") or ()):
        raise SourceError(
            f"{where} holds {len(unused)} tensors for the blocks of the model that a {kind} of "
            f"this config has no place for: {_some(unused)}. Its config.json belongs to another "
            "checkpoint (fewer layers, no biases, ...), and the model would compute something else"
        )
    if empty := [name for name, one in _tensors(model) if one.is_meta]:
        raise SourceError(f"{where} gives no values for {len(empty)} tensors: {_some(empty)}")


def check_finite(model: nn.Module, where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        SourceError: names the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SourceError(
                f"{name} of {where} holds NaN or infinity: the weights are damaged, or too "
                "large for model.dtype; get them again or set model.dtype=float32"
            )


def parameter_count(model: nn.Module) -> int:
    """Values in all parameters and persistent buffers, tied ones counted once."""
    held = {(one.data_ptr(), one.numel()): one.numel() for one in model.state_dict().values()}
    return sum(held.values())


def _of_blocks(model: nn.Module, unexpected: Any) -> list[str]:  # noqa: ANN401 - set or list
    """Unused tensors that belong to the stack of blocks; other towers and heads may be left out.

    transformers has already removed what the architecture is known to leave out (DeepSeek's
    extra prediction layer, GPT-2's stored masks, Llama's old rotary buffers).
    """
    try:
        prefix = f"{find_blocks(model)[0]}."
    except SourceError:
        return []
    return sorted(str(name) for name in unexpected if str(name).startswith(prefix))


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
