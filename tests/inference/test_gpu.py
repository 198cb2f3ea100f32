"""The GPU kernels, run by Triton's interpreter on a CPU, against dense decoding in float64."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed; make test installs it on Linux")

# The interpreter must be chosen before torch and triton are imported, so in a process of its own.
PROGRAM = """
import json, sys
import torch
from torch.nn import functional
from crvq.inference import QuantizedLinear, gpu
from tests.inference.linears import random_linear, relative_error

found = []
for case in json.loads(sys.argv[1]):
    kind, tokens, dtype = case.pop("kind"), case.pop("tokens"), getattr(torch, case.pop("dtype"))
    linear, dense, bias = random_linear(**case)
    x = torch.randn(tokens, linear.in_features, generator=torch.Generator().manual_seed(2))
    x = x.to(dtype)
    offset = None if bias is None else bias.double()
    expected = functional.linear(x.double(), dense.double(), offset)
    assert gpu.serves(linear)
    if kind == "decode":
        tiles = slice(1, linear.tiles)
        buffer = torch.full((8 * linear.tiles, linear.positions), 7.0)
        y = gpu.decode(linear, tiles, True, buffer)
        expected = linear.decode(tiles, torch.float32)
        assert y.shape == expected.shape
        plain = gpu.decode(linear, tiles, False, buffer.clone())
        assert relative_error(plain, linear.decode(tiles, torch.float32, scaled=False)) < 1e-6
    else:
        y = gpu.multiply(linear, x, by=kind)
        assert y.dtype == dtype and y.shape == expected.shape
    found.append(relative_error(y, expected))

# The paths that a module takes on a GPU: few tokens, many tokens, gradients.
linear, dense, _ = random_linear(out=200, in_features=64, bits=[4])
module = QuantizedLinear(linear)
calls = []
for name in ("multiply", "decode"):
    kernel = getattr(gpu, name)
    setattr(gpu, name, lambda *a, kernel=kernel, name=name: (calls.append(name), kernel(*a))[1])
with torch.no_grad():
    for tokens in (2, 30):
        x = torch.randn(tokens, 64)
        assert relative_error(module(x), x @ dense.t()) < 2e-6
x = torch.randn(3, 64, requires_grad=True)
module(x).sum().backward()
assert relative_error(x.grad, torch.ones(3, 200) @ dense) < 2e-6
assert calls == ["multiply", "decode", "decode", "decode"], calls
print(json.dumps(found))
"""

TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
CASES = [
    {"kind": kind, "tokens": tokens, "dtype": dtype, **options}
    for kind in ("tables", "dots", "decode")
    for tokens, dtype, options in (
        (1, "float32", {"out": 40, "in_features": 8 * 19, "bits": [8]}),
        (2, "float16", {"out": 21, "in_features": 61, "bits": [5, 5], "coverage": [2]}),
        (
            3,
            "bfloat16",
            {"out": 70, "in_features": 8 * 21, "bits": [4] * 4, "coverage": [3] * 3, "bias": True},
        ),
        (1, "float32", {"out": 9, "in_features": 40, "d": 3, "bits": [3], "stored": "int8"}),
        (1, "float32", {"out": 130, "in_features": 64, "bits": [10], "shuffled": False}),
    )
] + [
    {"kind": "dots", "tokens": 1, "dtype": "float32", "out": 9, "bits": [bits], "in_features": 24}
    for bits in range(1, 17)
]
CASES += [{"kind": "dots", "tokens": 2, "dtype": "float32", "out": 20, "bits": [3, 8, 11]}]


@pytest.fixture(scope="module")
def errors():
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "CRVQ_KERNELS": "torch",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(CASES)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", range(len(CASES)))
def test_kernels_equal_dense_decoding(errors, index):
    assert errors[index] < TOLERANCE[CASES[index]["dtype"]], CASES[index]
