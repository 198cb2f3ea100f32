"""The CPU kernels in C++: compiled once per machine with the system's compiler, called by ctypes.

A compiler is not a requirement: without one `library` returns None, and the quantized linear
falls back to numba or plain torch. $CRVQ_KERNELS chooses (``native``, ``numba``, ``torch``),
$CXX names the compiler, and $CRVQ_KERNEL_FLAGS replaces ``-march=native``.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from crvq.inference.packed_linear import PackedLinear
from crvq.sources.cache import cache_folder

_LOG = logging.getLogger(__name__)
_SOURCES = Path(__file__).with_name("kernels")
_KINDS = {torch.float32: 0, torch.float16: 1, torch.int8: 2}
_COMPILE_SECONDS = 120
_TOKENS = 8


class _Codebook(ctypes.Structure):
    """``Codebook`` of kernels/linear.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("codes", "entries", "steps")),
        *((name, ctypes.c_int32) for name in ("kind", "count", "bits", "groups")),
    ]


class _Linear(ctypes.Structure):
    """``Linear`` of kernels/linear.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("books", "order", "scales", "bias")),
        *((n, ctypes.c_int32) for n in ("order_bytes", "books_count", "out", "in_", "d")),
    ]


def kernels_wanted() -> str:
    """$CRVQ_KERNELS: the fastest kind of kernels that may be used.

    Raises:
        ValueError: it names no kind of kernels.
    """
    wanted = os.environ.get("CRVQ_KERNELS", "native")
    if wanted not in ("native", "numba", "torch"):
        raise ValueError(f"CRVQ_KERNELS={wanted!r}: allowed are native, numba and torch")
    return wanted


@cache
def library() -> ctypes.CDLL | None:
    """Compile the kernels if this machine has not yet, and load them; None without a compiler."""
    if kernels_wanted() != "native":
        return None
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        _LOG.warning("no C++ compiler found ($CXX, c++, g++): slower CPU kernels are used")
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(shlex.split(compiler))))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        _LOG.warning("the C++ kernels cannot be built, slower ones are used: %s", detail)
        return None
    pointer, long, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    loaded.crvq_multiply.argtypes = [pointer, pointer, long, pointer, number]
    loaded.crvq_decode.argtypes = [pointer, long, long, number, pointer, number]
    loaded.crvq_multiply_dense16.argtypes = [pointer, number, long, long, pointer, pointer, number]
    loaded.crvq_multiply_dense16.restype = None
    return loaded


def _compiled(compiler: list[str]) -> Path:
    """Return the shared library in the cache folder, built if it is not there.

    Its name is a digest of everything that decides its contents, the CPU's instruction set
    included: a home folder may serve different machines.
    """
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = shlex.split(os.environ.get("CRVQ_KERNEL_FLAGS", native))
    # No -ffast-math: it would reorder sums, and switch denormals off for the whole process.
    flags = ["-O3", "-std=c++17", "-fPIC", "-shared", *flags]
    asked = [*compiler, *flags, "-v", "-E", "-x", "c++", os.devnull]
    target = _run(asked).stderr  # the compiler's version, and what "native" means here
    sources = [file.read_text() for file in sorted(_SOURCES.iterdir()) if file.is_file()]
    key = hashlib.sha256("\0".join([*sources, target, *flags]).encode()).hexdigest()
    path = cache_folder() / "kernels" / f"crvq-{key[:24]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        command = [*compiler, *flags, str(_SOURCES / "kernels.cpp"), "-o", str(built)]
        try:
            _run([*command, "-fopenmp"])
        except subprocess.CalledProcessError:
            _run(command)  # one thread, for compilers without OpenMP
        built.replace(path)  # whole or not at all, also with two processes at once
    return path


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS
    )


def serves(linear: PackedLinear) -> bool:
    """Return whether the compiled kernels take this linear."""
    known = linear.prepared.get("native_serves")
    if known is None:
        known = (
            linear.scales.device.type == "cpu"
            and linear.group_size <= 32
            and linear.scales.dtype == torch.float16
            and all(codebook.dtype in _KINDS for codebook in linear.codebooks)
            and library() is not None
        )
        linear.prepared["native_serves"] = known
    return known


def _described(linear: PackedLinear) -> _Linear:
    """Return the linear as the kernels see it; made once, and its tensors stay where they are."""
    if "native" in linear.prepared:
        return linear.prepared["native"][0]
    bias = None if linear.bias is None else linear.bias.float().contiguous()
    books = (_Codebook * len(linear.codes))()
    for k, codebook in enumerate(linear.codebooks):
        steps = linear.steps[k]
        books[k] = _Codebook(
            linear.codes[k].data_ptr(),
            codebook.data_ptr(),
            None if steps is None else steps.data_ptr(),
            _KINDS[codebook.dtype],
            len(codebook),
            linear.bits[k],
            linear.groups[k],
        )
    order = linear.order
    described = _Linear(
        ctypes.addressof(books),
        None if order is None else order.data_ptr(),
        linear.scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        0 if order is None else order.element_size(),
        len(books),
        linear.out_features,
        linear.in_features,
        linear.group_size,
    )
    linear.prepared["native"] = (described, books, bias)  # kept alive: C++ holds their addresses
    return described


def pays(linear: PackedLinear, tokens: int) -> bool:
    """Return whether `multiply` is faster than decoding followed by a matrix product.

    Measured on one core, in nanoseconds per code; only their ratios matter. Eight tokens share a
    look-up, so tables win at any number of tokens where a code stands for enough multiplications.
    """
    if tokens <= 2:
        return True
    eights = -(-tokens // _TOKENS)
    by_kernel, decoding = 0.0, 0.0
    for bits, groups in zip(linear.bits, linear.groups, strict=True):
        count = groups * linear.out_features
        if bits > 12 or 2 << bits > linear.out_features:  # dot products, as in kernels/product.h
            by_kernel += (1.5 if bits > 12 else 0.75) * count * tokens
        else:
            building = 0.17 * groups * linear.group_size * (1 << bits)
            # Tables of eight tokens leave the L1 cache from 2^10 entries on.
            by_kernel += (0.75 * count + building) * eights * (1 if bits < 10 else 3)
        decoding += 2.5 * count
    return by_kernel < decoding + 0.023 * linear.positions * linear.out_features * tokens


def multiply(linear: PackedLinear, x: Tensor) -> Tensor:
    """Multiply tokens ``(tokens, in)`` in natural order, bias included: float32 ``(tokens, out)``.

    Eight at a time: their products of one group and one entry are one AVX2 register.
    """
    x = x.float().contiguous()
    y = torch.empty(len(x), linear.out_features)
    lib = library()
    assert lib is not None
    described = ctypes.byref(_described(linear))
    threads = torch.get_num_threads()
    lib.crvq_multiply(described, x.data_ptr(), len(x), y.data_ptr(), threads)
    return y


def multiply_dense16(weight: Tensor, x: Tensor) -> Tensor:
    """Return ``W x`` in float32 for one token.

    Args:
        weight: ``(out, in)``, bfloat16 or float16, contiguous.
        x: ``(in,)``, float32.
    """
    lib = library()
    assert lib is not None
    x, y = x.contiguous(), torch.empty(len(weight))
    kind = 0 if weight.dtype == torch.bfloat16 else 1
    lib.crvq_multiply_dense16(
        weight.data_ptr(), kind, *weight.shape, x.data_ptr(), y.data_ptr(), torch.get_num_threads()
    )
    return y


def decode(linear: PackedLinear, tiles: slice, scaled: bool, buffer: Tensor) -> Tensor:
    """Decode some out features like `PackedLinear.decode`, in float32.

    Args:
        linear: the weight.
        tiles: of out features.
        scaled: multiply by the row scales.
        buffer: float32 of at least ``(8 * tiles, positions)``, contiguous; its start is returned.
    """
    lib = library()
    assert lib is not None
    lib.crvq_decode(
        ctypes.byref(_described(linear)),
        tiles.start,
        tiles.stop,
        scaled,
        buffer.data_ptr(),
        torch.get_num_threads(),
    )
    rows = linear.rows(tiles)
    return buffer[: rows.stop - rows.start]
