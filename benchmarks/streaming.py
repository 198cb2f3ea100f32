"""Quantize the first blocks of a model that does not fit into memory, and say what that takes.

    python benchmarks/streaming.py /large/disk/llama-7b-shaped
    python benchmarks/streaming.py /large/disk/llama-7b-shaped --blocks 2 --set method=gptq

Writes a model of LLaMA-2-7B's shape (32 blocks, 4096 wide, 11008 inside) with random bfloat16
weights of realistic scale (13.5 GB, sharded), if the folder is not there yet; nothing of it is kept
in memory. Prints the peak memory of the process next to the formula of `crvq.models.placement`, and
the time for all blocks extrapolated from the first ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from transformers import LlamaConfig

from crvq.cli.config_store import store_defaults
from crvq.cli.typed_config import typed_config
from crvq.config.presets import conf_folder
from crvq.models.placement import peak_memory, shapes_of
from crvq.pipeline.context import prepare
from crvq.pipeline.quantize import quantize
from crvq.tracking.events import LayerRow, Listeners, RunListener
from crvq.tracking.record_values import RecordValues, blank_record

SHAPES = {
    # name: width, inside, heads, key-value heads, blocks, vocabulary
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "1b": (2048, 5632, 32, 4, 22, 32000),
    "tiny": (576, 1536, 9, 3, 30, 32000),
}
GIB = 2**30


class EnoughError(Exception):
    """The blocks asked for are quantized."""


class StopAfter(RunListener):
    """Ends a run after some blocks; keeps the seconds of each."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.seconds: list[float] = []

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Print what a block came to."""
        self.seconds.append(seconds)
        loss = sum(row.relative_loss for row in rows) / len(rows)
        bits = sum(row.bits for row in rows) / len(rows)
        print(
            f"block {block}: {seconds:.0f} s, relative loss {loss:.3f}, {bits:.3f} bits", flush=True
        )
        if block + 1 >= self.blocks:
            raise EnoughError


def write_model(folder: Path, shape: str, tokenizer: Path) -> None:
    """Write a model with random weights, a shard for every two blocks."""
    width, inside, heads, key_heads, blocks, vocabulary = SHAPES[shape]
    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inside, num_attention_heads=heads,
        num_key_value_heads=key_heads, num_hidden_layers=blocks, vocab_size=vocabulary,
        max_position_embeddings=4096, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    generator = torch.Generator().manual_seed(0)
    index: dict[str, str] = {}

    def draw(*size: int) -> torch.Tensor:
        values = torch.empty(size, dtype=torch.bfloat16)
        # The scale of trained weights, with the few larger channels that trained models have.
        values.normal_(0, 0.7 / size[-1] ** 0.5, generator=generator)
        if len(size) == 2:
            values[:, :: max(1, size[1] // 16)] *= 4
        return values

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    kv = width * key_heads // heads
    sizes = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width), "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inside, width), "mlp.up_proj": (inside, width),
        "mlp.down_proj": (width, inside),
    }  # fmt: skip
    save("outer.safetensors", {
        "model.embed_tokens.weight": draw(vocabulary, width),
        "lm_head.weight": draw(vocabulary, width),
        "model.norm.weight": torch.ones(width, dtype=torch.bfloat16),
    })  # fmt: skip
    for first in range(0, blocks, 2):
        tensors = {}
        for block in range(first, min(first + 2, blocks)):
            start = f"model.layers.{block}."
            tensors |= {f"{start}{kind}.weight": draw(*size) for kind, size in sizes.items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{start}{norm}.weight"] = torch.ones(width, dtype=torch.bfloat16)
        save(f"blocks-{first:02d}.safetensors", tensors)
        print(f"wrote blocks {first} and {first + 1}", flush=True)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Write the model if need be, quantize its first blocks, print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer is used")
    parser.add_argument("--text", type=Path, help="text to calibrate on")
    parser.add_argument("--placement", default="disk")
    parser.add_argument("--set", nargs="*", default=[], help="more overrides")
    given = parser.parse_args()
    if not given.folder.exists():
        write_model(given.folder, given.shape, given.tokenizer)
    store_defaults()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[
            "model=folder", f"model.path={given.folder}", "calibration=file",
            f"calibration.path={given.text}", f"calibration.samples={given.samples}",
            f"calibration.length={given.length}", "calibration.batch_size=1", "eval=none",
            f"placement={given.placement}", "tracking=disabled", *given.set,
        ])  # fmt: skip
    typed = typed_config(config)
    begun = time.perf_counter()
    context = prepare(typed)
    print(f"opened in {time.perf_counter() - begun:.0f} s, digest of all weights included")
    # The libraries, without the weights that are in memory now.
    held = [one for one in context.model.parameters() if not one.is_meta]
    base = psutil.Process().memory_info().rss - sum(one.nbytes for one in held)
    stop = StopAfter(given.blocks)
    with tempfile.TemporaryDirectory() as folder:
        values = RecordValues(blank_record(typed, "benchmark"))
        context.open(values, Listeners(values, stop), Path(folder))
        begun = time.perf_counter()
        with suppress(EnoughError):
            quantize(context)
        seconds = time.perf_counter() - begun
    blocks = context.model.config.num_hidden_layers
    each = sum(stop.seconds) / len(stop.seconds)
    parts = peak_memory(shapes_of(context.model), given.placement, given.samples * given.length)
    expected = base + sum(parts.values())
    print(
        f"{given.blocks} blocks in {seconds:.0f} s; {each:.0f} s each, all {blocks}: "
        f"{each * blocks / 3600:.1f} h\npeak memory {peak_bytes() / GIB:.2f} GiB, formula "
        f"{expected / GIB:.2f} GiB ({peak_bytes() / expected:.2f} of it)"
    )


if __name__ == "__main__":
    main()
