"""The solver against the authors' code on real linears.

    python benchmarks/solver.py --layers <folder> --setting all --repeats 3 --out solver.json

The folder holds ``<layer>.safetensors`` (``weight (out, in)``, ``second_moment (in, in)``) and
``peers.csv`` with what the authors' code reached on each: relative loss and seconds. A laptop
run of a minute: ``--repeats 1 --setting default``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from solver_presets import BARS, LAYOUTS, SETTINGS

from crvq.methods.crvq import CrvqMethod
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearInput, QuantizedLinear
from crvq.vq.hessian import Hessian


@dataclass(frozen=True)
class Row:
    """One linear under one setting, next to its peer."""

    layer: str
    shape: str
    relative_loss: float
    peer_loss: float
    seconds: float
    """Median over the repeats."""
    cpu_seconds: float
    """The same, summed over threads: what other programs on the machine do not stretch."""
    peer_seconds: float
    rounds: int
    bits: float

    @property
    def loss_ratio(self) -> float:
        """Ours over theirs; below 1 is better."""
        return self.relative_loss / self.peer_loss


def solve(path: Path, params: CrvqParams, repeats: int) -> tuple[QuantizedLinear, float, float]:
    """The quantized linear; median seconds and CPU seconds, from W and H in memory to codes."""
    tensors = load_file(path)
    weight = tensors["weight"].float()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        hessian = Hessian(tensors["second_moment"], params.damping)
        linear = LinearInput(path.stem, path.stem, weight, hessian, seed=0)
        result = next(iter(CrvqMethod(params, seed=0).quantize_block(0, [linear])))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return result, median(seconds), median(cpu_seconds)


def solve_together(folder: Path, layers: list[str], params: CrvqParams, repeats: int) -> float:
    """Median seconds of all layers as one block, which is how a model is quantized."""
    loaded = {layer: load_file(folder / f"{layer}.safetensors") for layer in layers}
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        linears = [
            LinearInput(name, name, x["weight"], Hessian(x["second_moment"], params.damping), 0)
            for name, x in loaded.items()
        ]
        for _result in CrvqMethod(params, seed=0).quantize_block(0, linears):
            pass
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def true_relative_loss(path: Path, quantized: QuantizedLinear) -> float:
    """``tr(ΔW H ΔWᵀ) / tr(W H Wᵀ)`` of the stored weight, in float64 from the file's W and H."""
    tensors = load_file(path)
    weight, h = tensors["weight"].double(), tensors["second_moment"].double()
    error = weight - quantized.weight.dequantize().double()
    return float(((error @ h) * error).sum() / ((weight @ h) * weight).sum())


def run_setting(
    folder: Path, peers: pd.DataFrame, changes: dict[str, Any], repeats: int
) -> list[Row]:
    """A row for each layer in ``peers``."""
    params = CrvqParams(**changes)
    rows = []
    for peer in peers.itertuples():
        path = folder / f"{peer.layer}.safetensors"
        result, seconds, cpu_seconds = solve(path, params, repeats)
        rows.append(
            Row(
                layer=str(peer.layer),
                shape=f"{peer.out_features}x{peer.in_features}",
                relative_loss=true_relative_loss(path, result),
                peer_loss=float(peer.relative_loss),
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                peer_seconds=float(peer.seconds),
                rounds=result.rounds,
                bits=result.weight.bits().total / result.source.weight.numel(),
            )
        )
    return rows


def summary(rows: list[Row], together: float) -> dict[str, float]:
    """Totals and the geometric mean over layers."""
    return {
        "seconds_as_one_block": together,
        "seconds": sum(row.seconds for row in rows),
        "cpu_seconds": sum(row.cpu_seconds for row in rows),
        "peer_seconds": sum(row.peer_seconds for row in rows),
        "loss_ratio": exp(mean(log(row.loss_ratio) for row in rows)),
        "worst_loss_ratio": max(row.loss_ratio for row in rows),
    }


def show(
    console: Console, title: str, rows: list[Row], total: dict[str, float], bar: tuple[float, float]
) -> None:
    """One row per linear, the totals, and whether the bar is met."""
    table = Table(title=title, title_justify="left")
    for column in (
        "layer",
        "out x in",
        "loss",
        "theirs",
        "ratio",
        "s",
        "CPU s",
        "theirs s",
        "faster",
    ):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    table.add_column("rounds", justify="right")
    table.add_column("bits", justify="right")
    for row in rows:
        table.add_row(
            row.layer, row.shape, f"{row.relative_loss:.5g}", f"{row.peer_loss:.5g}",
            f"{row.loss_ratio:.3f}", f"{row.seconds:.2f}", f"{row.cpu_seconds:.2f}",
            f"{row.peer_seconds:.1f}", f"{row.peer_seconds / row.seconds:.0f}", str(row.rounds),
            f"{row.bits:.3f}",
        )  # fmt: skip
    speed = total["peer_seconds"] / total["seconds_as_one_block"]
    table.add_section()
    table.add_row(
        "one by one", "", "", "", f"{total['loss_ratio']:.3f}", f"{total['seconds']:.2f}",
        f"{total['cpu_seconds']:.2f}", f"{total['peer_seconds']:.1f}",
        f"{total['peer_seconds'] / total['seconds']:.0f}",
    )  # fmt: skip
    table.add_row(
        "as one block", "", "", "", "", f"{total['seconds_as_one_block']:.2f}", "",
        f"{total['peer_seconds']:.1f}", f"{speed:.0f}",
    )  # fmt: skip
    console.print(table)
    time_bar, loss_bar = bar
    verdicts = {
        f"time {1 / speed:.4f} of theirs (bar {time_bar:.4f})": 1 / speed <= time_bar,
        f"loss {total['loss_ratio']:.3f} of theirs (bar {loss_bar})": total["loss_ratio"]
        <= loss_bar,
        f"worst layer {total['worst_loss_ratio']:.3f} (bar 1)": total["worst_loss_ratio"] <= 1,
    }
    for text, met in verdicts.items():
        console.print(f"  {'met   ' if met else 'MISSED'} {text}")


def machine() -> dict[str, Any]:
    """What the timings hold for."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Run the settings asked for, print their tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=Path, required=True, help="folder with peers.csv")
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all")
    parser.add_argument("--order", choices=["sorted", "stratified", "both"], default="both")
    parser.add_argument("--layout", choices=[*LAYOUTS, "both"], default="both")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    console = Console(width=120)
    here = machine()
    console.print(", ".join(f"{name} {value}" for name, value in here.items()))
    peers = pd.read_csv(asked.layers / "peers.csv")
    results: list[dict[str, Any]] = []
    settings = list(SETTINGS) if asked.setting == "all" else [asked.setting]
    orders = ["sorted", "stratified"] if asked.order == "both" else [asked.order]
    layouts = list(LAYOUTS) if asked.layout == "both" else [asked.layout]
    for setting in settings:
        for layout in layouts:
            for order in orders:
                changes = {**LAYOUTS[layout], **SETTINGS[setting], "reorder": order}
                chosen = peers[peers.method == layout]
                rows = run_setting(asked.layers, chosen, changes, asked.repeats)
                together = solve_together(
                    asked.layers, list(chosen.layer), CrvqParams(**changes), asked.repeats
                )
                total = summary(rows, together)
                kind = "the paper's" if order == "sorted" else "ours"
                title = f"{setting}, {layout}, order {order} ({kind}), median of {asked.repeats}"
                show(console, title, rows, total, BARS[setting])
                results.append(
                    {"setting": setting, "layout": layout, "order": order, "params": changes,
                     "rows": [asdict(row) for row in rows], **total}
                )  # fmt: skip
    if asked.out:
        text = json.dumps({"machine": here, "repeats": asked.repeats, "results": results}, indent=1)
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
