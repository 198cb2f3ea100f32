"""The quantized linear on a CPU next to torch's dense float32 product and AQLM's numba kernel.

    python benchmarks/inference.py --threads 1 2 --batch 1 8 512

Each repeat times all competitors one after another, so that a busy machine slows all of them; the
table holds medians of the times and of the ratios of each repeat. Calls cycle through copies of the
weight that together exceed the caches, as the layers of a model do; a competitor's turn is three
calls in a row, after one that is not timed. `critical` is one codebook plus
three extended ones over 2 % of the groups. With the `aqlm` package importable
(``pip install --no-deps aqlm``, and numba) its kernel multiplies by the same codes in its own
1x8 g8 format.

Where other programs want the CPUs, ``--clock cpu`` counts CPU time, of all threads together.
A machine with AVX2 only: CRVQ_KERNEL_FLAGS=-march=haswell NUMBA_CPU_NAME=haswell
ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 before the command.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from crvq.inference import QuantizedLinear, native
from crvq.vq.additive_code import AdditiveCode
from crvq.weights.additive import AdditiveWeight

SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008), (576, 576), (1536, 576)]
GROUP, BITS = 8, 8
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def random_weight(out: int, in_features: int, critical: int) -> AdditiveWeight:
    """CRVQ's layout: 8 bits per group of 8, and three more codebooks over the critical groups."""
    generator = torch.Generator().manual_seed(0)
    covered = [in_features // GROUP] + [critical] * (3 if critical else 0)
    return AdditiveWeight(
        out,
        in_features,
        AdditiveCode(
            [torch.randint(1 << BITS, (out, count), generator=generator) for count in covered],
            torch.rand(out, generator=generator),
        ),
        [{"entries": torch.randn(1 << BITS, GROUP, generator=generator).half()} for _ in covered],
        order=torch.randperm(in_features, generator=generator),
        reordered=in_features,
    )


def in_turn(calls: list[Callable[[], Tensor]]) -> Callable[[], Tensor]:
    """One call after another, from the start again after the last."""
    turn = cycle(calls)
    return lambda: next(turn)()


def copies(weight: AdditiveWeight) -> int:
    """How many packed weights of this size exceed 64 MiB."""
    return 1 + (64 << 20) // weight.code.codes[0].numel()


def aqlm_call(weight: AdditiveWeight, x: Tensor, threads: int) -> Callable[[], Tensor] | None:
    """AQLM's kernel on the same codes, in natural column order; None if it is not installed."""
    try:
        import numba
        from aqlm.inference_kernels.numba_kernel import numba_gemm_lut
    except ImportError:
        return None
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    codes = weight.code.codes[0].to(torch.uint8).view(torch.int8).t().contiguous()[:, :, None]
    codebook = weight.codebooks[0]["entries"].float()[None, :, None, :].contiguous()
    scales = weight.code.scales.float()[:, None, None, None].contiguous()
    several = [codes.clone() for _ in range(copies(weight))]
    return in_turn(
        [lambda own=own: numba_gemm_lut(x, own, codebook, scales, None) for own in several]
    )


def our_call(linears: list[QuantizedLinear], x: Tensor) -> Callable[[], Tensor]:
    """The quantized linear."""
    return in_turn([lambda linear=linear: linear(x) for linear in linears])


def dense_call(weights: list[Tensor], x: Tensor) -> Callable[[], Tensor]:
    """torch's own product."""
    return in_turn([lambda own=own: torch.nn.functional.linear(x, own) for own in weights])


def times(
    calls: dict[str, Callable[[], Tensor]], repeats: int, threads: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of each call in each repeat, taking turns."""
    for call in calls.values():
        for _ in range(3):
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            torch.set_num_threads(threads)  # numba sets OpenMP's number for torch too
            call()  # the one before left its own tables and branches in the CPU's caches
            start = clock()
            for _ in range(3):
                call()
            found[name].append((clock() - start) * 1e3 / 3)
    return found


def ratio(found: dict[str, list[float]], slow: str, fast: str) -> str:
    """Median over the repeats."""
    if slow not in found:
        return ""
    return f"{median(a / b for a, b in zip(found[slow], found[fast], strict=True)):.2f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 512])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of them")
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    print("compiled kernels" if native.library() else "no compiled kernels")
    table = Table("in -> out", "batch", "threads", "dense ms", "ours ms", "dense/ours",
                  "critical ms", "critical/ours", "aqlm ms", "aqlm/ours")  # fmt: skip
    for out, in_features in SHAPES[: options.shapes]:
        one = random_weight(out, in_features, 0)
        more = random_weight(out, in_features, max(1, in_features // GROUP // 50))
        ours, critical = (
            [QuantizedLinear.from_weight(weight) for _ in range(copies(weight))]
            for weight in (one, more)
        )
        dense = [one.dequantize() for _ in range(1 + (64 << 20) // (4 * out * in_features))]
        for batch in options.batch:
            x = torch.randn(batch, in_features)
            for threads in options.threads:
                torch.set_num_threads(threads)
                calls = {
                    "dense": dense_call(dense, x),
                    "ours": our_call(ours, x),
                    "critical": our_call(critical, x),
                }
                aqlm = aqlm_call(one, x, threads)
                if aqlm is not None and batch <= 8:
                    calls["aqlm"] = aqlm
                with torch.no_grad():
                    found = times(
                        calls, options.repeats if batch < 64 else 5, threads, CLOCKS[options.clock]
                    )
                middle = {name: f"{median(values):.3f}" for name, values in found.items()}
                table.add_row(
                    f"{in_features} -> {out}", str(batch), str(threads), middle["dense"],
                    middle["ours"], ratio(found, "dense", "ours"), middle["critical"],
                    ratio(found, "critical", "ours"), middle.get("aqlm", ""),
                    ratio(found, "aqlm", "ours"),
                )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
