"""Evaluation speed: this package against a plain transformers loop, in one process.

python benchmarks/evaluation_speed.py                      # SmolLM2-135M, 4 windows of 2048 tokens
python benchmarks/evaluation_speed.py --windows 8 --context 1024 --threads 2

The plain loop is what most scripts do: float32, `model(input_ids, labels=...)`, window by window.
Ours is measured in float32 and in bfloat16, with the perplexity of each, so that speed is seen
next to what it costs. Rounds take turns, and the fastest of each counts: other work on the machine
slows all alike. Needs processors that compute in bfloat16 to show what that gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from smollm2 import load_smollm2, parser_with_rounds
from transformers import PreTrainedModel

from crvq.config import PerplexityConfig
from crvq.data.evaluation_windows import cut_windows
from crvq.data.text import load_documents
from crvq.evaluation.perplexity import perplexity

CPU = torch.device("cpu")


def plain_loop(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Perplexity as a script of a few lines takes it."""
    with torch.no_grad():
        losses = [model(input_ids=w[None], labels=w[None]).loss.item() for w in windows]
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    """Measure and print."""
    parser = parser_with_rounds(__doc__.split("\n\n")[0], rounds=2)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048)
    arguments = parser.parse_args()
    loaded, cache = load_smollm2(arguments.threads)
    text = PerplexityConfig(context=arguments.context, max_windows=arguments.windows)
    windows = cut_windows(load_documents(text, cache), loaded.tokenizer, text).ids
    model = loaded.model
    ways: dict[str, Callable[[], float]] = {
        "plain loop, float32": lambda: plain_loop(model, windows),
        "crvq, float32": lambda: perplexity(model, windows, CPU).perplexity,
        "crvq, bfloat16": lambda: perplexity(model, windows, CPU, torch.bfloat16).perplexity,
    }
    found: dict[str, float] = {}
    seconds = dict.fromkeys(ways, math.inf)
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            found[name] = way()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    report(found, seconds, windows.numel())


def report(found: dict[str, float], seconds: dict[str, float], tokens: int) -> None:
    """A line for each way, the plain loop first."""
    plain = "plain loop, float32"
    print(f"{tokens:,} tokens, {torch.get_num_threads()} threads")
    print(f"{'':22}{'tokens/s':>10}{'ratio':>8}{'perplexity':>13}{'difference':>12}")
    for name, perplexed in found.items():
        ratio = seconds[plain] / seconds[name]
        apart = perplexed / found[plain] - 1
        speed = tokens / seconds[name]
        print(f"{name:22}{speed:10.0f}{ratio:7.2f}x{perplexed:13.5f}{apart:+12.4%}")


if __name__ == "__main__":
    main()
