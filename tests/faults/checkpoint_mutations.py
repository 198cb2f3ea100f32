"""Random damage to a checkpoint folder, as a stranger or a broken disk may do it.

Every mutation takes the folder and a `random.Random`, changes something, and returns a word on
what it did. Digests are repaired afterwards (see `repair`), as somebody who forges a checkpoint
would do: the checks behind the digests are what is tried.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.weights.test_formats import former_header

MANIFEST = "manifest.json"
NASTY = (
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 64, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**40, 2**63,
    2**64, -(2**63), 1.5, -0.0, 1e308, 5e-324, "", "0", "3", "NaN", "Infinity", "-Infinity", "x",
    "../block-000.safetensors", "/dev/urandom", "/dev/zero", "shared.safetensors", "\ud800",
    "a\u0000b", "x" * 5000, [], [0], [1, -1], [2**40] * 3, {}, {"a": 1}, {"format": "additive"},
    [[[[[[[[[[[[1]]]]]]]]]]]],
)  # fmt: skip
RAW = ("1" * 5000, "1e999", "-1e999", "NaN", "Infinity", "[" * 20000, '{"a":' * 3000, "0x10", "")


def spots(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every value in nested JSON."""
    found = [path] if path else []
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += spots(inner, (*path, key))
    return found


def at(values: Any, path: tuple) -> Any:
    for key in path:
        values = values[key]
    return values


def chosen_spot(values: Any, draw: random.Random) -> tuple:
    """Headers are small beside curves and rows, and matter most: every second spot is in one."""
    every = spots(values)
    headers = [path for path in every if "linears" in path]
    return draw.choice(headers if headers and draw.random() < 0.6 else every)


def edit_json(folder: Path, draw: random.Random) -> str:
    values = json.loads((folder / MANIFEST).read_text())
    path = chosen_spot(values, draw)
    inside, key = at(values, path[:-1]), path[-1]
    kind = draw.choice(["set", "set", "set", "delete", "add", "rename", "swap", "scale"])
    if kind == "delete":
        del inside[key]
    elif kind == "add" and isinstance(inside, dict):
        inside[draw.choice(["x", "format", "groups", "entries", "code_bits"])] = draw.choice(NASTY)
    elif kind == "rename" and isinstance(inside, dict):
        inside[str(draw.choice(NASTY))[:50]] = inside.pop(key)
    elif kind == "swap":
        other = chosen_spot(values, draw)
        if other[: len(path)] != path and path[: len(other)] != other:
            there = at(values, other[:-1])
            inside[key], there[other[-1]] = there[other[-1]], inside[key]
    elif kind == "scale" and isinstance(inside[key], int):
        inside[key] = inside[key] * draw.choice([-1, 0, 2, 3, 1000, 10**6]) + draw.choice([0, 1])
    else:
        inside[key] = draw.choice(NASTY)
    (folder / MANIFEST).write_text(json.dumps(values))
    return f"{kind} {'.'.join(map(str, path))[-70:]!a}"


def edit_text(folder: Path, draw: random.Random) -> str:
    """Damage what no JSON writer writes: constants, long digits, double keys, bytes."""
    values = json.loads((folder / MANIFEST).read_text())
    path = chosen_spot(values, draw)
    at(values, path[:-1])[path[-1]] = "HERE"
    text = json.dumps(values)
    kind = draw.choice(["raw", "raw", "double", "cut", "bytes"])
    if kind == "raw":
        text = text.replace('"HERE"', draw.choice(RAW))
    elif kind == "double":
        text = text.replace("{", '{"file": 1, "file": 2, ', 1)
    elif kind == "cut":
        text = text[: draw.randrange(len(text))]
    content = bytearray(text.encode())
    if kind == "bytes":
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    (folder / MANIFEST).write_bytes(content)
    return f"text {kind}"


def edit_tensors(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    changes: dict[str, Callable[[], Any]] = {
        "drop": lambda: tensors.pop(name),
        "extra": lambda: tensors.update({f"{name}.more": torch.zeros(3)}),
        "rename": lambda: tensors.update({draw.choice(["x", f"{name}0"]): tensors.pop(name)}),
        "dtype": lambda: tensors.update({name: tensor.to(draw.choice(DTYPES))}),
        "flat": lambda: tensors.update({name: tensor.flatten()}),
        "shorter": lambda: tensors.update({name: tensor[:-1].clone()}),
        "longer": lambda: tensors.update({name: torch.cat([tensor, tensor])}),
        "deeper": lambda: tensors.update({name: tensor[None].clone()}),
        "empty": lambda: tensors.update({name: tensor[:0].clone()}),
        "zeros": lambda: tensors.update({name: torch.zeros_like(tensor)}),
        "bytes": lambda: tensors.update({name: any_bytes(tensor, draw)}),
        "ones": lambda: tensors.update({name: any_bytes(tensor, draw, 255)}),
        "number": lambda: tensors.update({name: one_number(tensor, draw)}),
        "swap": lambda: tensors.update({name: tensors[draw.choice(sorted(tensors))].clone()}),
    }
    kind = draw.choice(sorted(changes))
    changes[kind]()
    save_file({key: one.contiguous() for key, one in tensors.items()}, path)
    return f"tensor {kind} {name}"


DTYPES = (torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bfloat16,
          torch.bool, torch.int32, torch.complex64)  # fmt: skip


def any_bytes(tensor: torch.Tensor, draw: random.Random, fixed: int | None = None) -> torch.Tensor:
    size = tensor.numel() * tensor.element_size()
    content = [draw.randrange(256) if fixed is None else fixed for _ in range(size)]
    return torch.tensor(content, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)


def one_number(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    changed = tensor.clone()
    if changed.numel():
        value = draw.choice([float("nan"), float("inf"), 65504.0, -65504.0, 0.0])
        place = draw.randrange(changed.numel())
        changed.view(-1)[place] = value if changed.is_floating_point() else draw.randrange(128)
    return changed


def edit_bytes(folder: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "header", "header", "length", "cut", "garbage", "empty", "shape"])
    length = struct.unpack("<Q", content[:8])[0]
    if kind == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "header":
        content[8 + draw.randrange(length)] = draw.choice(b'0123456789[]{}",:-eUIF\x00\xff')
    elif kind == "length":
        content[:8] = struct.pack("<Q", draw.choice([0, 1, length - 1, length + 1, 2**40, 2**63]))
    elif kind == "cut":
        del content[draw.randrange(len(content)) :]
    elif kind == "garbage":
        content = bytearray(draw.randbytes(draw.randrange(1, 400)))
    elif kind == "empty":
        content = bytearray()
    else:  # a shape that no writer would write, in the header alone
        header = json.loads(content[8 : 8 + length])
        names = [name for name in header if name != "__metadata__"]
        header[draw.choice(names)]["shape"] = draw.choice(
            [[], [0], [2**62, 0], [2**63, 2], [-1], [2**40], [1] * 70, [0, 2**64 - 1]]
        )
        text = json.dumps(header).encode()
        content = bytearray(struct.pack("<Q", len(text)) + text + content[8 + length :])
    path.write_bytes(content)
    return f"bytes {kind} {path.name}"


def edit_folder(folder: Path, draw: random.Random) -> str:
    path = draw.choice([*sorted(folder.glob("*.safetensors")), folder / MANIFEST])
    kind = draw.choice(["gone", "fifo", "folder", "device", "outside", "loop", "other"])
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "outside":
        outside = folder.parent / f"outside-{path.name}"
        outside.write_bytes(content)
        path.symlink_to(outside)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "other":
        path.write_bytes(draw.choice(sorted(folder.glob("*"))).read_bytes())
    return f"folder {kind} {path.name}"


MUTATIONS = (
    (edit_json,) * 9 + (edit_tensors,) * 5 + (edit_text, edit_bytes, edit_bytes, edit_folder)
)


def as_version_1(folder: Path) -> None:
    """Rewrite the manifest as format version 1 wrote it: no digest, fewer sizes in headers."""
    from crvq.checkpoint import BlockStore

    store = BlockStore.read(folder)
    values = json.loads((folder / MANIFEST).read_text())
    for number, entry in values["blocks"].items():
        weights = store.load_block(int(number)).weights
        entry["linears"] = {kind: former_header(weight) for kind, weight in weights.items()}
    del values["manifest_sha256"]
    (folder / MANIFEST).write_text(json.dumps({**values, "format_version": 1}))


def repair(folder: Path) -> None:
    """Give every file that can be read the digests and sizes that make it look intact."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        values = json.loads((folder / MANIFEST).read_text())
        entries = [*values["blocks"].values(), values["shared"], values["outer"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for entry in entries:
        try:
            path = folder / Path(entry["file"]).name
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            entry["sha256"] = hashlib.sha256(content).hexdigest()
            length = struct.unpack("<Q", content[:8])[0]
            entry["tensor_bytes"] = max(0, len(content) - 8 - length)
            entry["unquantized_bytes"] = 0
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            continue
    if "manifest_sha256" in values:
        del values["manifest_sha256"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        values["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(values))
