"""How the solver's time and memory grow with shapes, codebook bits and number of codebooks.

    python benchmarks/solver_growth.py --out growth.json
    python benchmarks/solver_growth.py --quick        # a minute, on a laptop

Synthetic weights (normal, a few channels ten times larger) and second moments with a spectrum
like that of real activations (power law, a few strong channels). Each case runs in its own process;
peak memory is the largest resident set seen while solving, above W and H and all that was loaded
before, as a multiple of W's size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from solver_presets import LAYOUTS

from crvq.methods.crvq import CrvqMethod
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearInput
from crvq.vq.hessian import Hessian

PAPER = LAYOUTS["crvq_4x8_ratio0.02"]
QUICK: list[dict[str, Any]] = [
    {"out": 576, "in": 576},
    {"out": 576, "in": 1536},
    {"out": 1536, "in": 576},
    {"out": 576, "in": 576, "codebook_bits": 12, "extended_bits": 12},
]
FULL: list[dict[str, Any]] = [
    *({"out": out, "in": 1024} for out in (1024, 2048, 4096)),
    *({"out": 1024, "in": features} for features in (2048, 4096)),
    *({"out": 1024, "in": 1024, "codebook_bits": b, "extended_bits": b} for b in (10, 12)),
    {"out": 1024, "in": 1024, "codebook_bits": 16, "extended_bits": 8},
    *({"out": 1024, "in": 1024, "extended_codebooks": m - 1} for m in (1, 2, 8)),
    # A round tells enough: the others cost the same.
    *(
        {"out": o, "in": i, "max_rounds": 1}
        for o, i in ((4096, 4096), (11008, 4096), (4096, 11008))
    ),
]


def synthetic(
    out_features: int, in_features: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a second moment of realistic scales."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    weight = 0.02 * normal(out_features, in_features)
    diag_h = normal(in_features).exp()
    diag_h[: max(1, in_features // 200)] *= 30
    # Twice as many samples as a rank: correlated through a few common directions.
    second_moment = torch.zeros(in_features, in_features, device=device)
    common = normal(32, in_features)
    for _ in range(4):
        x = normal(in_features // 2, in_features)
        x += normal(in_features // 2, 32) @ common
        x *= diag_h.sqrt()
        second_moment.addmm_(x.T, x, alpha=1 / (2 * in_features))
    return weight, second_moment


class PeakMemory:
    """The largest resident set of this process while the context is open, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = resident_bytes()
        self._open = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._thread.join()

    def _watch(self) -> None:
        while self._open:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.002)


def resident_bytes() -> int:
    """The resident set of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of one case; runs in a process of its own."""
    changes = {k: v for k, v in case.items() if k not in ("out", "in", "threads")}
    params = CrvqParams(**{**PAPER, **changes})
    torch.set_num_threads(case["threads"])
    warm_up = synthetic(64, 64)
    weight, second_moment = synthetic(case["out"], case["in"])
    for w, h in (warm_up, (weight, second_moment)):
        with PeakMemory() as memory:
            start, cpu_start = time.perf_counter(), time.process_time()
            hessian = Hessian(h, params.damping)
            linear = LinearInput("synthetic", "synthetic", w, hessian, seed=0)
            result = next(iter(CrvqMethod(params, seed=0).quantize_block(0, [linear])))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    above = memory.peak - memory.before
    return {
        **case,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rounds": result.rounds,
        "relative_loss": result.relative_loss,
        "above_mib": above / 2**20,
        "above_over_w": above / weight.nbytes,
        "above_over_w_and_h": above / (weight.nbytes + second_moment.nbytes),
    }


def in_own_process(case: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Run `measure` in a fresh interpreter, so that no earlier case's memory counts."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        return {**case, "error": f"stopped after {timeout:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {**case, "error": error.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """A row a case."""
    table = Table(title="paper's layout (d=8, m=4, 8 bits, λ=0.02) but where said")
    names = ("out", "in", "bits", "m", "s", "CPU s", "ns/weight", "rounds", "MiB", "x W", "x (W+H)")
    for name in names:
        table.add_column(name, justify="right")
    for row in results:
        bits = row.get("codebook_bits", PAPER["codebook_bits"])
        m = row.get("extended_codebooks", PAPER["extended_codebooks"]) + 1
        head = [str(row["out"]), str(row["in"]), str(bits), str(m)]
        if "error" in row:
            table.add_row(*head, row["error"])
            continue
        per_weight = row["cpu_seconds"] / (row["out"] * row["in"] * max(1, row["rounds"])) * 1e9
        table.add_row(
            *head, f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{per_weight:.0f}",
            str(row["rounds"]), f"{row['above_mib']:.0f}", f"{row['above_over_w']:.2f}",
            f"{row['above_over_w_and_h']:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print("ns/weight: CPU time a weight and round. x W: peak above W and H, over W's size.")


def main() -> None:
    """Run all cases, or the one that `in_own_process` asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four small cases")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds a case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(measure(json.loads(asked.case))))
        return
    cases = QUICK if asked.quick else FULL
    results = []
    for case in cases:
        results.append(in_own_process({**case, "threads": asked.threads}, asked.timeout))
        print(json.dumps(results[-1]), flush=True)
    show(Console(width=110), results)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
