"""Read mutated checkpoints: ``python -m tests.faults.checkpoint_fuzz --count 2000 --seed 0``.

Prints what became of each kind of mutation, as JSON. Run as a process of its own, so that its peak
memory is that of reading checkpoints.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.errors import CheckpointError
from crvq.tracking.events import LayerRow, training_from_dict
from tests.faults.checkpoint_mutations import MUTATIONS, as_version_1, repair
from tests.weights.test_trainable import WEIGHTS

SECONDS_EACH = 20
SUMMARY = {
    "steps": 2, "best_step": 1, "first_loss": 1.0, "best_loss": 0.5, "skipped": 0,
    "stopped": "done", "trained_values": 9, "seconds": 0.1,
}  # fmt: skip
POINT = {
    "stage": "block", "block": 0, "epoch": 0.0, "step": 0, "train_loss": None,
    "validation_loss": "NaN", "learning_rate": 0.0, "seconds": 0.1,
}  # fmt: skip


def build(folder: Path) -> ModelShapes:
    """A checkpoint with a linear of every format in two blocks, norms, shared tensors, training."""
    store, _ = BlockStore.open(folder, {"seed": 0, "nested": {"list": [1, 2.5, None]}})
    weights = {f"mlp.{n}": make() for n, make in enumerate(WEIGHTS.values())}
    store.save_shared({"more.codebooks.0.entries": torch.ones(2, 2).half()})
    training = {"summary": SUMMARY, "points": [POINT]}
    shapes = {}
    for block in range(2):
        rows = []
        for kind, weight in weights.items():
            shapes[kind] = tuple(weight.dequantize().shape)
            rows.append(
                LayerRow(
                    block, f"layers.{block}.{kind}", kind, *shapes[kind], 0, 0.1, 0.2, 1, 0.1, 2.0
                )
            )
        store.save_block(block, weights, rows, {"norm.weight": torch.ones(6).half()}, training)
    store.save_outer({"last.weight": torch.ones(6)})
    store.finish_training(training)
    return ModelShapes(shapes, {"norm.weight": (6,), "last.weight": (6,)})


def read_all(folder: Path, shapes: ModelShapes | None) -> None:
    """Everything that is ever read of a checkpoint, decoded.

    Raises:
        CheckpointError: what is expected of a damaged one.
        AssertionError: a value came back that no weight may have.
    """
    store = BlockStore.read(folder)
    store.digest()
    store.whole_blocks()
    for block in range(2):
        stored = store.load_block(block, shapes)
        for kind, weight in stored.weights.items():
            dense = weight.dequantize()
            assert tuple(dense.shape) == (weight.out_features, weight.in_features), kind
            assert bool(torch.isfinite(dense).all()), f"{kind} is not finite"
            assert shapes is None or tuple(dense.shape) == shapes.linears[kind], kind
        if stored.training is not None:
            training_from_dict(stored.training)
    store.load_outer(shapes)
    if store.training is not None:
        training_from_dict(store.training)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TooSlowError(Exception):
    pass


def _too_slow(number: int, frame: object) -> None:
    raise TooSlowError(f"more than {SECONDS_EACH} s")


def fuzz(count: int, seed: int) -> dict:
    """Mutate and read ``count`` checkpoints."""
    signal.signal(signal.SIGALRM, _too_slow)
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    faults: list[dict] = []
    refusals: Counter[str] = Counter()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        sound = {version: Path(scratch) / f"version-{version}" for version in (1, 2)}
        for folder in sound.values():
            shapes = build(folder)
        as_version_1(sound[1])
        for folder in sound.values():
            read_all(folder, shapes)
        before = peak_bytes()
        for number in range(count):
            root = Path(scratch) / "case"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            version = draw.choice([1, 2])
            shutil.copytree(sound[version], root / "checkpoint")
            change = draw.choice(MUTATIONS)
            what = change(root / "checkpoint", draw)
            if draw.random() < 0.9:
                repair(root / "checkpoint")
            known = draw.random() < 0.5
            grown, outcome = peak_bytes(), "read"
            signal.alarm(SECONDS_EACH)
            try:
                read_all(root / "checkpoint", shapes if known else None)
            except CheckpointError as error:
                outcome = "refused"
                text = str(error)
                refusals[text.replace(str(root), "")[:60]] += 1
                if "\n" in text or len(text) > 700 or not text.isprintable():
                    outcome = "bad message"
                    faults.append({"number": number, "what": what, "error": ascii(text)[:300]})
            except BaseException:
                outcome = "fault"
                faults.append({"number": number, "what": what, "error": traceback.format_exc()})
            finally:
                signal.alarm(0)
            if peak_bytes() - grown > 64 << 20:
                faults.append(
                    {"number": number, "what": what, "error": f"{peak_bytes() - grown} bytes"}
                )
            outcomes[f"{change.__name__}: {outcome}"] += 1
    return {
        "tried": count,
        "outcomes": dict(sorted(outcomes.items())),
        "faults": faults,
        "kinds_of_refusal": len(refusals),
        "peak_growth_bytes": peak_bytes() - before,
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(fuzz(arguments.count, arguments.seed), indent=1) + "\n")
