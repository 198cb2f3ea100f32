"""The quantized linear on a GPU: correctness, then times next to a dense fp16 product.

    python benchmarks/inference_gpu.py

Needs torch and triton only, one NVIDIA GPU and under two minutes. Times are of calls inside a CUDA
graph that cycles through copies of the weight, so that nothing is read from the L2 cache of the
previous call. `floor` is the time that the bytes of the packed weight take at 3.35 TB/s (H100 SXM);
`x floor` how far above it a product is. TRITON_INTERPRET=1 with ``--device cpu`` checks
correctness on tiny shapes without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crvq.inference import gpu
from crvq.inference.packed_codes import pack_codes
from crvq.inference.packed_linear import PackedLinear
from crvq.inference.product import product, tiled_product

BANDWIDTH = 3.35e12
STARTED = time.perf_counter()
LAST_START = 85.0
"""Seconds after which no further measurement starts."""
SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008)]
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random_linear(
    out: int, in_features: int, critical: int, device: str, bits: int = 8, d: int = 8
) -> PackedLinear:
    """One codebook over all groups, and three over the critical ones if there are any."""
    generator = torch.Generator(device=device).manual_seed(0)
    groups = in_features // d
    covered = [groups] + [critical] * (3 if critical else 0)

    def codes(count: int) -> Tensor:
        return torch.randint(1 << bits, (out, count), generator=generator, device=device)

    return PackedLinear(
        out,
        in_features,
        codes=[pack_codes(codes(count), bits) for count in covered],
        bits=[bits] * len(covered),
        groups=covered,
        codebooks=[
            torch.randn(1 << bits, d, generator=generator, device=device).half() for _ in covered
        ],
        steps=[None] * len(covered),
        scales=(torch.rand(out, generator=generator, device=device) * 0.02).half(),
        order=torch.randperm(in_features, generator=generator, device=device).to(torch.int16),
    )


def dense_weight(linear: PackedLinear) -> Tensor:
    """Decoded in plain torch: ``(out, in)``, float32."""
    coded = linear.decode(slice(0, linear.tiles), torch.float32)
    natural = torch.empty_like(coded)
    natural[:, linear.order.long()] = coded
    return natural


def check(device: str) -> bool:
    """Compare every kernel with dense decoding; print one line per case."""
    shapes = (
        [(72, 128, 3)] if device == "cpu" else [(4096, 4096, 10), (1000, 4096, 0), (576, 1536, 4)]
    )
    good = True
    for out, in_features, critical in shapes:
        for bits in (8, 6, 12):
            linear = random_linear(out, in_features, critical, device, bits)
            weight = dense_weight(linear).double()
            for dtype, tolerance in TOLERANCE.items():
                for tokens in (1, 4, 33):
                    x = torch.randn(tokens, in_features, device=device).to(dtype)
                    expected = x.double() @ weight.t()
                    ways: dict[str, Callable[[], Tensor]] = {
                        "tiles": lambda: tiled_product(linear, linear.reorder(x))  # noqa: B023
                    }
                    if tokens <= 4:
                        ways["dots"] = lambda: gpu.multiply(linear, x, "dots")  # noqa: B023
                        if bits <= 10:
                            ways["tables"] = lambda: gpu.multiply(linear, x, "tables")  # noqa: B023
                    for name, way in ways.items():
                        try:
                            error = float((way().double() - expected).norm() / expected.norm())
                        except Exception as failure:  # a kernel that does not compile is a finding
                            print(
                                f"FAILED {name} {out}x{in_features} {bits} bits: {failure!r:.300}"
                            )
                            good = False
                            continue
                        passed = error < tolerance * (2 if name == "tiles" else 1)
                        good &= passed
                        if not passed or (tokens == 1 and dtype == torch.float16):
                            print(
                                f"{'ok    ' if passed else 'WRONG '} {name:7}{out}x{in_features} "
                                f"{bits} bits, {tokens} tokens, {dtype}: error {error:.1e}"
                            )
            if time.perf_counter() - STARTED > LAST_START / 2:
                print("correctness takes too long: the other cases are skipped")
                return good
    return good


def graph_microseconds(calls: list[Callable[[], Tensor]]) -> float:
    """Median time of one call; all calls lie in one graph, which is replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:3]:  # compiles kernels, and lets cuBLAS allocate
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(calls))
    return median(times[1:])


def copies(linear: PackedLinear, count: int) -> list[PackedLinear]:
    """The same linear at other addresses."""
    return [
        PackedLinear(
            linear.out_features, linear.in_features, [c.clone() for c in linear.codes],
            linear.bits, linear.groups, linear.codebooks, linear.steps, linear.scales.clone(),
            linear.order,
        )
        for _ in range(count)
    ]  # fmt: skip


def timed(name: str, calls: list[Callable[[], Tensor]], dense: float, floor: float) -> float:
    """Measure and print one line; infinite if it fails or time is up."""
    if time.perf_counter() - STARTED > LAST_START:
        return float("inf")
    try:
        microseconds = graph_microseconds(calls)
    except Exception as failure:
        print(f"  {name:34} FAILED {failure!r:.300}")
        return float("inf")
    print(
        f"  {name:34}{microseconds:8.2f} us  {dense / microseconds:5.2f} x dense"
        f"  {microseconds / floor:6.1f} x floor",
        flush=True,
    )
    return microseconds


def decoding(out: int, in_features: int) -> None:
    """One token: both kinds of kernels at several tile sizes, without and with critical groups."""
    x = torch.randn(1, in_features, device="cuda", dtype=torch.float16)
    weights = [
        torch.randn(out, in_features, device="cuda", dtype=torch.float16)
        for _ in range(max(4, (256 << 20) // (2 * out * in_features)))
    ]
    dense = graph_microseconds([lambda w=w: torch.nn.functional.linear(x, w) for w in weights * 2])
    print(f"{in_features} -> {out}, 1 token: dense fp16 {dense:.2f} us, its floor "
          f"{2e6 * out * in_features / BANDWIDTH:.2f} us")  # fmt: skip
    del weights
    for critical in (0, in_features // 8 // 50):
        linear = random_linear(out, in_features, critical, "cuda")
        size = sum(codes.numel() for codes in linear.codes)
        floor = size / BANDWIDTH * 1e6
        layout = "2 % critical, 3 codebooks more" if critical else "1 codebook"
        print(f" {layout}: floor {floor:.2f} us")
        several = copies(linear, max(8, (128 << 20) // size))
        for rows, warps in ((512, 4), (1024, 8)):
            calls = [lambda c=c: gpu.by_tables(c, x, rows, warps) for c in several]  # noqa: B023
            timed(f"tables, {rows} rows, {warps} warps", calls, dense, floor)
        for rows, groups, warps in ((8, 256, 4), (8, 512, 4), (8, 512, 8), (16, 512, 4)):
            calls = [
                lambda c=c: gpu.by_dots(c, x, rows, groups, warps)  # noqa: B023
                for c in several
            ]
            timed(f"dots, {rows} rows, {groups} groups, {warps} warps", calls, dense, floor)
        timed(
            "the module's choice",
            [lambda c=c: product(c, x, lambda: x) for c in several],
            dense,
            floor,
        )


def prefill(out: int, in_features: int, tokens: int = 512) -> None:
    """Many tokens: tiles are decoded and multiplied by cuBLAS."""
    x = torch.randn(tokens, in_features, device="cuda", dtype=torch.float16)
    weight = torch.randn(out, in_features, device="cuda", dtype=torch.float16)
    dense = graph_microseconds([lambda: torch.nn.functional.linear(x, weight)] * 20)
    print(f"{in_features} -> {out}, {tokens} tokens: dense fp16 {dense:.1f} us")
    linear = random_linear(out, in_features, in_features // 8 // 50, "cuda")
    floor = sum(codes.numel() for codes in linear.codes) / BANDWIDTH * 1e6
    timed("decoded tiles", [lambda: tiled_product(linear, linear.reorder(x))] * 10, dense, floor)


def main() -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    device = parser.parse_args().device
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("no GPU here; TRITON_INTERPRET=1 with --device cpu checks correctness")
        print(torch.cuda.get_device_name(), "torch", torch.__version__)
    good = check(device)
    print("all kernels agree with dense decoding" if good else "SOME KERNELS FAILED", flush=True)
    if device == "cuda":
        for shape in SHAPES:
            decoding(*shape)
        for shape in SHAPES:
            prefill(*shape)
    print(f"{time.perf_counter() - STARTED:.0f} s")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
