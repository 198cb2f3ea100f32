"""Real linears for the solver's benchmarks: W and H of some blocks of SmolLM2-135M.

    python benchmarks/collect_layers.py --blocks 7 15 23 --out layers

Writes ``<out>/block<i>/<layer>.safetensors`` with ``weight (out, in)`` and ``second_moment
(in, in)``, float32: the full-precision model on the default calibration text. This is the format
that `solver.py` and `solver_compiled.py` read.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import save_file
from smollm2 import load_smollm2

from crvq.config import CalibrationConfig
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.data.windows import calibration_windows
from crvq.models.blocks import find_blocks, find_slots
from crvq.models.second_moments import InputCollector


def collect(blocks: list[int], samples: int | None, out: Path, threads: int | None) -> None:
    """Run the model over the calibration windows and write every linear of ``blocks``."""
    loaded, cache = load_smollm2(threads)
    config = CalibrationConfig()
    text = tokenize(load_documents(config, cache), loaded.tokenizer)
    windows = calibration_windows(text, samples or config.samples, config.length, config.seed)
    _, modules = find_blocks(loaded.model)
    slots = {block: find_slots(modules[block]) for block in blocks}
    collectors = {block: InputCollector(slots[block]) for block in blocks}
    for window in windows:
        with torch.inference_mode(), ExitStack() as stack:
            for collector in collectors.values():
                stack.enter_context(collector.collecting())
            loaded.model(window[None], use_cache=False, logits_to_keep=1)
    for block in blocks:
        folder = out / f"block{block}"
        folder.mkdir(parents=True, exist_ok=True)
        for slot in slots[block]:
            seen = collectors[block].statistics(slot)
            if seen is None:
                continue
            tensors = {"weight": slot.read(), "second_moment": seen.second_moment().clone()}
            save_file(tensors, folder / f"{slot.kind}.safetensors")
        print(f"{folder}: {len(slots[block])} linears, {windows.numel()} tokens")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[7, 15, 23])
    parser.add_argument("--samples", type=int, help="calibration windows; the default: the run's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    collect(asked.blocks, asked.samples, asked.out, asked.threads)


if __name__ == "__main__":
    main()
