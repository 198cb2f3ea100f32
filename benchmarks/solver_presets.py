"""The solver settings that the benchmarks compare."""

from __future__ import annotations

from typing import Any

# The paper's layout: m = 4 codebooks of 8 bits, d = 8, λ = 0.02; and one codebook (λ = 0).
LAYOUTS: dict[str, dict[str, Any]] = {
    "crvq_4x8_ratio0.02": {
        "group_size": 8,
        "codebook_bits": 8,
        "extended_bits": 8,
        "extended_codebooks": 3,
        "critical_ratio": 0.02,
    },
    "aqlm_1x8": {
        "group_size": 8,
        "codebook_bits": 8,
        "extended_codebooks": 0,
        "critical_ratio": 0.0,
    },
}

# `default` is what the package does when nothing is said.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "quality": {
        "search": "feedback",
        "beam": 4,
        "max_rounds": 20,
        "relative_gain": 0.003,
        "kmeans_iterations": 25,
        "kmeans_sample": 65536,
    },
}

# What the issue asks of each setting: part of the authors' seconds, and of their loss.
BARS: dict[str, tuple[float, float]] = {"default": (1 / 50, 0.95), "quality": (1 / 10, 0.88)}
