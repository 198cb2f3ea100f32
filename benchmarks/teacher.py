"""What a full-precision teacher costs: kept hidden states, kept likeliest tokens, or asked again.

python benchmarks/teacher.py                     # SmolLM2-135M, windows of 512 tokens
python benchmarks/teacher.py --length 1024 --rounds 9 --threads 2

A distillation step is the student's forward and backward pass and the KL to the teacher. The last
one differs: `hidden_states` reads the teacher's last states and applies the head, `top_k` reads its
k likeliest tokens, and a teacher that is asked again runs its whole body (and lies in memory
next to the student). Rounds take turns; medians, and what each keeps on disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from smollm2 import load_smollm2, parser_with_rounds

from crvq.config import CalibrationConfig
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.finetune.losses import Divergence, exact_kl, sliced_kl
from crvq.finetune.teacher import Student, Teacher, student_of
from crvq.models.precision import forward_precision, resolve_activation_dtype

CPU = torch.device("cpu")


def asked_again(student: Student, window: torch.Tensor) -> Divergence:
    """A teacher that runs its body again (with the student's own weights: the cost is equal)."""
    with torch.no_grad():
        states = student.body(window[None])[0]

    def divergence(part: slice, logits: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            expected = student.head(states[part])
        return exact_kl(expected, logits)

    return divergence


def main() -> None:
    """Measure and print."""
    parser = parser_with_rounds(__doc__.split("\n\n")[0], rounds=5)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=128)
    arguments = parser.parse_args()
    loaded, cache = load_smollm2(arguments.threads)
    model, dtype = loaded.model, resolve_activation_dtype("auto", CPU, torch.float32)
    for name, parameter in model.named_parameters():
        # As in training: gradients of all linears and norms, none of the head.
        parameter.requires_grad_("embed" not in name and "lm_head" not in name)
    text = tokenize(load_documents(CalibrationConfig(), cache), loaded.tokenizer)
    windows = text[: arguments.length][None]
    student = student_of(model, windows)
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            kind: Teacher(Path(folder) / kind, kind, arguments.top_k, CPU)
            for kind in ("hidden_states", "top_k")
        }
        for kind, teacher in kept.items():
            (Path(folder) / kind).mkdir()
            teacher.learn(student, windows, 0, dtype)
        ways: dict[str, Callable[[], Divergence]] = {
            kind: lambda teacher=teacher: teacher.divergence([0], student.head)  # type: ignore[misc]
            for kind, teacher in kept.items()
        }
        ways["asked again"] = lambda: asked_again(student, windows[0])
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                begun = time.perf_counter()
                with forward_precision(CPU, dtype):
                    states = student.body(windows)[0]
                    sliced_kl(states, student.head, way()).backward()
                model.zero_grad(set_to_none=True)
                seconds[name].append(time.perf_counter() - begun)
        sizes = {
            kind: sum(file.stat().st_size for file in (Path(folder) / kind).iterdir())
            for kind in kept
        }
    least = min(statistics.median(values) for values in seconds.values())
    for name, values in seconds.items():
        median, size = statistics.median(values), sizes.get(name, 0) / arguments.length
        print(
            f"{name:14} {median:6.2f} s a step, {median / least:4.2f}x, {size:6.0f} bytes per token"
        )


if __name__ == "__main__":
    main()
