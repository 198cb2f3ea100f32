"""`crvq.load`: a quantized model from its folder, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from crvq.errors import CheckpointError, CrvqError
from crvq.export.checks import check_shards, read_layout
from crvq.export.registration import register
from crvq.inference.head import read_head_in_16_bits
from crvq.models.quiet import quiet_transformers

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load(
    folder: str | Path,
    *,
    device: str | torch.device | dict[str, Any] = "cpu",
    dtype: str | torch.dtype = "auto",
) -> PreTrainedModel:
    """Load a folder that `crvq export` or `QuantizationResult.save` has written.

    Every tensor's digest is checked before the model is made. Nothing is unpickled and no code from
    the folder runs.

    Args:
        folder: on this machine.
        device: of the model, or a ``device_map`` of transformers (``"auto"``, a dictionary).
        dtype: of activations and unquantized tensors; ``auto``: that of the model which was
            quantized. Quantized layers stay as they are stored.

    Returns:
        The model in eval mode. Its attribute ``tokenizer`` is its tokenizer, or None.

    Raises:
        CheckpointError: the folder is not such a folder, is damaged, or of a newer version.
    """
    folder = Path(folder).expanduser()
    read_layout(folder)
    check_shards(folder)
    register()
    try:
        with quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                device_map=device if isinstance(device, (str, dict)) else str(device),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
            tokenizer = None
            if any((folder / name).exists() for name in _TOKENIZER_FILES):
                tokenizer = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
    except CrvqError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Exception as error:  # transformers, tokenizers and torch: any kind
        raise CheckpointError(f"{folder} cannot be loaded: {error!s:.500}") from error
    read_head_in_16_bits(model)
    # A plain attribute: nn.Module's own would have to be a tensor or a module.
    object.__setattr__(model, "tokenizer", tokenizer)
    return model.eval()
