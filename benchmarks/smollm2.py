"""The model that benchmarks of whole passes take, and their common arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from crvq.config import ModelConfig
from crvq.models.load import LoadedModel, load_model
from crvq.sources.cache import cache_folder


def parser_with_rounds(description: str, rounds: int) -> argparse.ArgumentParser:
    """``--rounds`` and ``--threads``, for a benchmark to add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=None)
    return parser


def load_smollm2(threads: int | None) -> tuple[LoadedModel, Path]:
    """SmolLM2-135M on the CPU with so many threads (torch's choice if None), and the cache."""
    if threads is not None:
        torch.set_num_threads(threads)
    cache = cache_folder()
    return load_model(ModelConfig(name="SmolLM2-135M", source="embedded"), cache), cache
