"""Products with packed codes against dense decoding in float64, by every kind of CPU kernels."""

import pytest
import torch
from torch.nn import functional

from crvq.inference import native, numba_kernels, product
from tests.inference.linears import random_linear, relative_error

FLOAT32 = 2e-6  # sums of up to a few hundred products in float32
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 1e-3, torch.bfloat16: 8e-3}

needs_native = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")


def check(multiply, tokens=1, dtype=torch.float32, **options):
    linear, dense, bias = random_linear(**options)
    x = torch.randn(tokens, linear.in_features, generator=torch.Generator().manual_seed(2))
    x = x.to(dtype)
    expected = functional.linear(
        x.double(), dense.double(), None if bias is None else bias.double()
    )
    found = multiply(linear, x)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < TOLERANCE[dtype]


def by_tiles(linear, x):
    y = product.tiled_product(linear, linear.reorder(x))
    return y if linear.bias is None else y + linear.bias.to(y.dtype)


def in_torch(linear, x):
    tiles = slice(0, linear.tiles)
    y = linear.reorder(x).float() @ linear.decode(tiles, torch.float32).t()
    return y if linear.bias is None else y + linear.bias


KINDS = [
    pytest.param(native.multiply, id="native", marks=needs_native),
    pytest.param(by_tiles, id="tiles"),
    pytest.param(in_torch, id="torch"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", range(1, 17))
def test_every_width_of_codes(kind, bits):
    check(kind, bits=(bits,), tokens=2, out=136)


@needs_native
@pytest.mark.parametrize("bits", range(1, 13))
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_every_width_that_tables_serve(bits, tokens):
    # Enough out features that tables are used: 2^(bits + 1) at least.
    check(native.multiply, bits=(bits,), tokens=tokens, out=max(16, (2 << bits) + 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bits", "coverage"),
    [((8, 8), None), ((4, 4, 4, 4), [1, 1, 1]), ((5, 9, 3), [4, 2]), ((2, 8, 8, 8), [3, 3, 20])],
)
@pytest.mark.parametrize("out", [30, 600])
def test_several_codebooks(kind, bits, coverage, out):
    check(kind, bits=bits, coverage=coverage, out=out, in_features=8 * 40, tokens=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 12, 16, 32])
@pytest.mark.parametrize("out", [20, 200])
def test_every_group_size_with_padding_bias_and_int8_codebooks(kind, d, out):
    check(kind, d=d, in_features=8 * d + 1, bits=(6,), stored="int8", bias=True, out=out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 9, 33, 512])
@pytest.mark.parametrize("shuffled", [True, False])
def test_every_dtype_and_batch(kind, dtype, tokens, shuffled):
    check(
        kind, tokens=tokens, dtype=dtype, shuffled=shuffled, bits=(5, 5), coverage=[2],
        out=130, in_features=300, bias=True,
    )  # fmt: skip


@needs_native
def test_threads_change_no_bit_of_a_product_by_tables():
    linear, _, _ = random_linear(out=520, in_features=8 * 70, bits=(8, 8), coverage=[5])
    x = torch.randn(4, linear.in_features)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(native.multiply(linear, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_native
def test_codes_that_no_entry_has_read_zeros():
    linear, _, _ = random_linear(bits=(4,), out=64)  # 13 entries
    linear.codes[0].fill_(255)  # every code is 15
    assert torch.equal(native.multiply(linear, torch.ones(1, 64)), torch.zeros(1, 64))


@pytest.mark.parametrize(("bits", "out"), [((8,), 20), ((3, 5), 30), ((12,), 9), ((9,), 64)])
def test_numba(bits, out):
    pytest.importorskip("numba")
    check(numba_kernels.multiply, bits=bits, out=out, tokens=2, bias=True, in_features=8 * 19 - 3)


@needs_native
@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_no_decoded_weight_is_larger_than_a_tile(tokens, monkeypatch):
    monkeypatch.setattr(product, "_CPU_ELEMENTS", 8 * 64 * 2)
    linear, dense, _ = random_linear(out=200, in_features=64, bits=(4,))
    x = torch.randn(tokens, 64)
    assert max(part.stop - part.start for part in product.tile_slices(linear)) <= 2
    found = product.tiled_product(linear, linear.reorder(x))
    assert relative_error(found, x @ dense.t()) < FLOAT32


def test_gradients_are_those_of_dense_decoding():
    linear, _, _ = random_linear(out=21, in_features=61, bits=(5, 3), coverage=[2])
    linear.codebooks = [book.double().requires_grad_() for book in linear.codebooks]
    linear.scales = linear.scales.double()
    linear.scales[3] = 0.0  # a dead row has a gradient too
    linear.scales.requires_grad_()
    x = torch.randn(7, 61, dtype=torch.float64, requires_grad=True)
    inputs = [x, linear.scales, *linear.codebooks]
    upstream = torch.randn(7, 21, dtype=torch.float64)

    coded = linear.reorder(x)
    dense = linear.decode(slice(0, linear.tiles), torch.float64)
    expected = torch.autograd.grad((coded @ dense.t() * upstream).sum(), inputs)
    y = product.differentiable_product(linear, linear.reorder(x))
    found = torch.autograd.grad((y * upstream).sum(), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_only_the_gradients_that_are_asked_for_are_computed():
    linear, dense, _ = random_linear(out=21, in_features=64, bits=(5,))
    x = torch.randn(7, 64, requires_grad=True)
    product.differentiable_product(linear, linear.reorder(x)).sum().backward()
    assert x.grad is not None
    assert relative_error(x.grad, torch.ones(7, 21) @ dense) < FLOAT32


@needs_native
@pytest.mark.parametrize(("out", "stored"), [(1024, "float16"), (1024, "int8"), (64, "float16")])
def test_codebooks_are_told_apart_by_what_they_hold(out, stored):
    # Converted entries are kept for the next layer: never for other numbers at the same address.
    linear, _, _ = random_linear(out=out, stored=stored)
    x = torch.randn(1, linear.in_features)
    before = native.multiply(linear, x)
    doubled = linear.codebooks[0] if stored == "float16" else linear.steps[0]
    doubled.mul_(2)  # in place: address and shape stay
    torch.testing.assert_close(native.multiply(linear, x), 2 * before)
