"""Seconds to quantize one block of LLaMA-2-7B's shape at the paper's setting, on any device.

    python benchmarks/llama_block.py                     # cuda where there is one
    python benchmarks/llama_block.py --shape 1/8         # an eighth of every width, for a CPU
    CRVQ_FUSED=0 python benchmarks/llama_block.py        # without the fused kernels

Weights are synthetic (normal, 0.02), second moments have a spectrum and strong channels as those of
real activations. The floor is what the arithmetic alone takes: multiplications of the search, the
codebook solve and the scales, at the rate that one large float32 product reaches in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from fractions import Fraction
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from solver_growth import synthetic
from solver_presets import LAYOUTS

from crvq.methods.crvq import CrvqMethod
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearInput
from crvq.vq.hessian import Hessian
from crvq.vq.kernels import fused_groups_for

BLOCKS = 32
SHAPES = {
    "self_attn.q_proj": (4096, 4096, "attention"),
    "self_attn.k_proj": (4096, 4096, "attention"),
    "self_attn.v_proj": (4096, 4096, "attention"),
    "self_attn.o_proj": (4096, 4096, "output"),
    "mlp.gate_proj": (11008, 4096, "mlp"),
    "mlp.up_proj": (11008, 4096, "mlp"),
    "mlp.down_proj": (4096, 11008, "down"),
}


def block(shape: Fraction, device: torch.device) -> list[LinearInput]:
    """The seven linears; those that read one input share its Hessian."""
    hessians: dict[str, Hessian] = {}
    linears = []
    for name, (out_features, in_features, source) in SHAPES.items():
        out_features, in_features = int(out_features * shape), int(in_features * shape)
        weight, second_moment = synthetic(out_features, in_features, device)
        if source not in hessians:
            hessians[source] = Hessian(second_moment)
        linears.append(LinearInput(name, name, weight, hessians[source], seed=0))
    return linears


def products(linear: LinearInput, params: CrvqParams, rounds: int) -> float:
    """Floating-point operations of the products that the solver cannot do without."""
    out_features, in_features = linear.weight.shape
    with_h = 2.0 * out_features * in_features**2
    search = 2.0 * out_features * in_features * 2**params.codebook_bits
    # A sweep: P once, its updates (half of H each on average, both sides: one product), scores.
    sweep = 2 * with_h + search
    # Conjugate gradient: the residual and one product per step; scales: one more.
    a_round = (params.codebook_steps + 2) * with_h + sweep
    return (rounds + 1) * a_round + sweep


def product_rate(device: torch.device) -> float:
    """Floating-point operations a second of one large float32 product."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(4):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Quantize the block and show one row per linear."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=Fraction, default=Fraction(1), help="part of the widths")
    parser.add_argument("--order", default="sorted", choices=("sorted", "stratified"))
    parser.add_argument("--set", nargs="*", default=[], help="CRVQ parameters, name=value")
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many")
    parser.add_argument("--out", type=Path, help="write rows as JSON")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    changes = dict(item.split("=", 1) for item in arguments.set)
    params = CrvqParams(**{**LAYOUTS["crvq_4x8_ratio0.02"], "reorder": arguments.order, **changes})
    linears = block(arguments.shape, device)
    method = CrvqMethod(params, seed=0)
    rows = []
    rate = product_rate(device)
    warm_up = block(Fraction(1, 32), device)
    list(method.quantize_block(0, warm_up))
    for repeat in range(arguments.repeats):
        for linear in linears:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            wait(device)
            start = time.perf_counter()
            result = next(iter(method.quantize_block(repeat, [linear])))
            wait(device)
            seconds = time.perf_counter() - start
            row = {
                "linear": linear.name,
                "shape": list(linear.weight.shape),
                "repeat": repeat,
                "seconds": seconds,
                "rounds": result.rounds,
                "relative_loss": result.relative_loss,
                "floor_seconds": products(linear, params, result.rounds) / rate,
            }
            if device.type == "cuda":
                above = torch.cuda.max_memory_allocated() - held
                row["above_over_w"] = above / linear.weight.nbytes
            rows.append(row)
            del result
    show(rows, arguments, rate, fused=fused_groups_for(device, [torch.empty(256, 8)]) is not None)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))


def show(rows: list[dict], arguments: argparse.Namespace, rate: float, fused: bool) -> None:
    """A table of medians, and the block's and the model's sums."""
    table = Table(title=f"{arguments.device}, fused kernels: {fused}, {rate / 1e12:.1f} TFLOP/s")
    for name in ("linear", "shape", "s", "floor s", "rounds", "relative loss", "above, x W"):
        table.add_column(name, justify="right")
    total = floor = 0.0
    for name in SHAPES:
        mine = sorted((r for r in rows if r["linear"] == name), key=lambda r: r["seconds"])
        row = mine[len(mine) // 2]
        total, floor = total + row["seconds"], floor + row["floor_seconds"]
        table.add_row(
            name, "x".join(map(str, row["shape"])), f"{row['seconds']:.3f}",
            f"{row['floor_seconds']:.3f}", str(row["rounds"]), f"{row['relative_loss']:.4f}",
            f"{row.get('above_over_w', float('nan')):.2f}",
        )  # fmt: skip
    table.add_row("block", "", f"{total:.2f}", f"{floor:.2f}", "", "", "")
    table.add_row(f"{BLOCKS} blocks", "", f"{total * BLOCKS:.0f}", f"{floor * BLOCKS:.0f}",
                  "", "", "")  # fmt: skip
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
