"""``crvq export``, ``import-aqlm``, ``generate`` and ``chat``: make a quantized model and use it.

crvq export RUN_FOLDER OUT [--dense]
crvq import-aqlm FOLDER OUT
crvq generate FOLDER "prompt" [--max-new-tokens N] [--sample]
crvq chat FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from crvq.errors import CrvqError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_QUIT = ("/quit", "/exit")


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; the exit code is 1 where it was refused."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "export":
            _export(asked)
        elif asked.command == "import-aqlm":
            _import_aqlm(asked)
        elif asked.command == "generate":
            _generate(asked)
        else:
            _chat(asked)
    except CrvqError as error:
        console = Console(stderr=True)
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crvq", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a finished run as a Hugging Face folder")
    export.add_argument("run_folder", help="results/EXPERIMENT/RUN_ID")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument(
        "--dense", action="store_true", help="dequantized weights in 16 bits, for any other tool"
    )
    export.add_argument("--cache-dir", help="downloads; $CRVQ_CACHE or the user's cache folder")
    imported = commands.add_parser("import-aqlm", help="write an AQLM checkpoint as such a folder")
    imported.add_argument("folder", type=Path, help="config.json and safetensors files")
    imported.add_argument("out", type=Path, help="new folder")
    for name, text in (("generate", "continue a prompt"), ("chat", "talk to a model")):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path, help="written by crvq export")
        if name == "generate":
            command.add_argument("prompt", help="text to continue; - reads standard input")
        command.add_argument("--max-new-tokens", type=_positive, default=256, metavar="N")
        command.add_argument(
            "--sample", action="store_true", help="sample instead of the likeliest"
        )
        command.add_argument("--temperature", type=float, default=0.7)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
        command.add_argument("--dtype", default="auto", help="float32, bfloat16, or float16")
        command.add_argument("--threads", type=_positive, help="CPU threads")
    return parser


def _export(asked: argparse.Namespace) -> None:
    from crvq.export import export_run

    out = export_run(asked.run_folder, asked.out, dense=asked.dense, cache_dir=asked.cache_dir)
    _say_where(out, usable=not asked.dense)


def _import_aqlm(asked: argparse.Namespace) -> None:
    from crvq.export.aqlm import import_aqlm

    _say_where(import_aqlm(asked.folder, asked.out), usable=True)


def _say_where(out: Path, usable: bool) -> None:
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    console = Console()
    console.print(f"{out}: {size / 1e6:.1f} MB of weights", highlight=False, soft_wrap=True)
    if usable:
        console.print(f'crvq generate {out} "Once upon a time"', highlight=False, soft_wrap=True)


def _generate(asked: argparse.Namespace) -> None:
    model = _loaded(asked)
    prompt = sys.stdin.read() if asked.prompt == "-" else asked.prompt
    _answer(model, dict(_tokenizer(model)(prompt, return_tensors="pt")), asked, skip_prompt=False)


def _chat(asked: argparse.Namespace) -> None:
    from crvq.errors import ConfigError

    model = _loaded(asked)
    tokenizer = _tokenizer(model)
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"{asked.folder} has no chat template: it is not a model for conversations; use "
            f'crvq generate {asked.folder} "prompt"'
        )
    console = Console(stderr=True)
    console.print(f"{' or '.join(_QUIT)} ends the conversation", style="dim", highlight=False)
    messages: list[dict[str, str]] = []
    while (line := _line()) is not None:
        messages.append({"role": "user", "content": line})
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        messages.append({"role": "assistant", "content": _answer(model, dict(inputs), asked)})


def _line() -> str | None:
    """Return the next line that is not empty; None at the end of a conversation."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return None
        if line in _QUIT:
            return None
        if line:
            return line


def _loaded(asked: argparse.Namespace) -> PreTrainedModel:
    import torch

    from crvq.errors import ConfigError
    from crvq.export import load

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    if asked.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype {asked.dtype}: give float32, bfloat16 or float16")
    torch.manual_seed(asked.seed)
    return load(asked.folder, device=asked.device, dtype=asked.dtype)


def _tokenizer(model: PreTrainedModel) -> Any:  # noqa: ANN401 - transformers' union of kinds
    from crvq.errors import ConfigError

    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError("the folder has no tokenizer: export the run again")
    return tokenizer


def _answer(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    asked: argparse.Namespace,
    skip_prompt: bool = True,
) -> str:
    """Generate, print tokens as they come, and return the new text."""
    from transformers import TextStreamer

    tokenizer = _tokenizer(model)
    model_inputs: Any = {
        key: value.to(model.device)
        for key, value in inputs.items()
        if key in ("input_ids", "attention_mask")
    }
    sampling: dict[str, Any] = {"do_sample": asked.sample}
    if asked.sample:
        sampling["temperature"] = asked.temperature
    tokens = model.generate(  # type: ignore[operator]
        **model_inputs,
        **sampling,
        max_new_tokens=asked.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        streamer=TextStreamer(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True),
    )
    new = tokens[0, model_inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number
