"""A GGUF file as an ordinary Hugging Face folder of safetensors, converted once."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from crvq.errors import SourceError
from crvq.models.quiet import quiet_transformers
from crvq.sources.digest import sha256_of_file
from crvq.sources.folder import write_folder

_MAGIC = b"GGUF"


def dequantized_folder(gguf: Path, dtype: torch.dtype, cache: Path) -> Path:
    """The folder in ``cache`` that holds ``gguf`` with its weights dequantized to ``dtype``.

    Reading a GGUF takes transformers 13 s for SmolLM2-135M, nearly all of it in parsing the
    vocabulary three times over; the folder takes a second. Its name carries the file's digest,
    so another file never meets an old folder.

    Raises:
        SourceError: the file is missing, not a GGUF, or of an architecture that transformers
            cannot read.
    """
    _check_is_gguf(gguf)
    name = f"{gguf.stem}-{sha256_of_file(gguf)[:16]}-{str(dtype).removeprefix('torch.')}"
    folder = cache / "dequantized" / name
    if not folder.is_dir():
        write_folder(folder, lambda target: _convert(gguf, dtype, target))
    return folder


def _check_is_gguf(gguf: Path) -> None:
    if not gguf.is_file():
        raise SourceError(f"model.path={gguf}: there is no such GGUF file")
    with gguf.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise SourceError(
            f"model.path={gguf} is not a GGUF file: it begins with {start!r}, not {_MAGIC!r}; "
            "perhaps its download was cut short, or it is a Git LFS pointer"
        )


def _convert(gguf: Path, dtype: torch.dtype, folder: Path) -> None:
    """Let transformers dequantize the file and save it as the plain model that it then is.

    Without ``dequantize=True`` some architectures stay packed, and the others' config says for
    ever that they are quantized.
    """
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        # The converter's bar is not transformers' own: it heeds nothing but standard error.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
            )
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers raises bare ones
        raise SourceError(
            f"transformers cannot read the GGUF file {gguf}: {error}. "
            "Ways out: the same model as a Hugging Face folder (model.path=FOLDER), or "
            "model=smollm2-135m"
        ) from error
