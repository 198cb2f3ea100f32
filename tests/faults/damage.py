"""Every kind of file that is read back, with a byte flipped or its end missing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.faults.bench import Bench, assert_equal, outcome, run_folder
from tests.faults.fault import Fault
from tests.faults.inject import KILL, Injection

FINISHED = {
    "plain": ["record.json", "layers.csv", "checkpoint/manifest.json",
                        "checkpoint/block-000.safetensors", "checkpoint/block-002.safetensors",
                        "cache/full_precision/*.json"],
    "block_e2e": [
        "record.json", "layers.csv", "finetune.csv", "checkpoint/manifest.json",
        "checkpoint/block-001.safetensors", "checkpoint/outer.safetensors",
        "checkpoint_before_end_to_end/manifest.json",
        "checkpoint_before_end_to_end/block-001.safetensors",
        "finetune_state.safetensors", "cache/teacher/*/000003.safetensors"],
    "model_scope": ["record.json", "checkpoint/shared.safetensors",
                                          "checkpoint/block-001.safetensors"],
}  # fmt: skip
UNFINISHED = {
    # state: scenario, function at which it was killed, which call of it, files
    "two blocks of three": (
        "plain", "crvq.pipeline.blockwise:BlockwiseQuantizer._quantize", 3,
        ["record.json", "layers.csv", "checkpoint/manifest.json",
         "checkpoint/block-000.safetensors", "checkpoint/block-001.safetensors",
         "cache/full_precision/*.json"]),
    "shared codebooks and two blocks": (
        "model_scope", "crvq.pipeline.blockwise:BlockwiseQuantizer._quantize", 3,
        ["checkpoint/shared.safetensors", "checkpoint/block-001.safetensors"]),
    "end-to-end training": (
        "block_e2e", "crvq.finetune.end_to_end:save_training", 4,
        ["record.json", "finetune.csv", "checkpoint_before_end_to_end/manifest.json",
         "checkpoint_before_end_to_end/block-001.safetensors", "finetune_state.safetensors",
         "finetune_state.previous.safetensors", "cache/teacher/*/000003.safetensors"]),
    "storing the trained model": (
        "block_e2e", "crvq.checkpoint.block_store:BlockStore.finish_training", 1,
        ["checkpoint/manifest.json", "checkpoint/block-001.safetensors",
         "checkpoint/outer.safetensors", "finetune_state.safetensors"]),
}  # fmt: skip
FLIPS, CUTS = ("start", "random", "end"), ("half", "last byte")


def faults(seed: int) -> Iterator[Fault]:
    """All faults of this file."""
    draw = random.Random(seed + 1)
    for state, files in FINISHED.items():
        for file in files:
            for harm in (*FLIPS, *CUTS):
                share = draw.random()
                yield Fault(
                    f"damaged {_kind(file)}, finished run",
                    f"{state}: {file}, {harm}",
                    lambda bench, s=state, f=file, h=harm, at=share: _finished(bench, s, f, h, at),
                    short=(state, harm) == ("plain", "random") and "block-002" not in file,
                )
    for state, (*_, files) in UNFINISHED.items():
        for file in files:
            for harm in (*FLIPS, *CUTS):
                share = draw.random()
                yield Fault(
                    f"damaged {_kind(file)}, unfinished run",
                    f"{state}: {file}, {harm}",
                    lambda bench, s=state, f=file, h=harm, at=share: _unfinished(
                        bench, s, f, h, at
                    ),
                    short=(state, harm) == ("end-to-end training", "random")
                    and "cache" not in file,
                )


def _kind(file: str) -> str:
    if "teacher" in file:
        return "teacher file"
    if "full_precision" in file:
        return "full-precision cache"
    name = file.rpartition("/")[2].partition(".")[0]
    known = {"block-": "block", "finetune_state": "training state", "finetune": "finetune.csv",
             "record": "record.json", "layers": "layers.csv", "manifest": "manifest.json",
             "shared": "shared codebooks", "outer": "outer tensors"}  # fmt: skip
    return next(kind for start, kind in known.items() if name.startswith(start))


def harm_file(path: Path, harm: str, share: float) -> None:
    """Flip a bit of a byte, or cut the file."""
    data = bytearray(path.read_bytes())
    if harm in FLIPS:
        places = {"start": 2, "end": len(data) - 2}
        data[places.get(harm, int(share * len(data)))] ^= 1 << int(share * 8)
    else:
        kept = {"half": len(data) // 2, "last byte": len(data) - 1}[harm]
        data = data[:kept]
    path.write_bytes(data)


def _damaged_file(case: Path, file: str) -> Path:
    if file.startswith("cache"):
        return sorted(case.glob(file))[0]
    return run_folder(case) / file


def added(bench: Bench, scenario: str) -> dict[str, object]:
    """The honest result of a scenario's command followed by one that adds an evaluation."""

    def make(folder: Path) -> None:
        shutil.copytree(bench.finished(scenario), folder, dirs_exist_ok=True)
        ended = bench.run(folder, [*bench.command(scenario), "eval.agreement={}"])
        assert ended.code == 0, ended.said

    return outcome(run_folder(bench.state(f"{scenario} and agreement", make)))


def _finished(bench: Bench, state: str, file: str, harm: str, share: float) -> None:
    """The same command ends in the recorded result; one that reads the blocks repairs them."""
    scenario = state
    case = bench.case_from(bench.finished(scenario))
    honest, more = bench.honest(scenario), added(bench, scenario)
    harm_file(_damaged_file(case, file), harm, share)
    ended = bench.run(case, bench.command(scenario))
    if ended.code != 0 and "manifest" in file:
        assert "Traceback" not in ended.said, ended.said[-2500:]
    else:
        assert ended.code == 0, f"exit {ended.code}: {ended.said[-2000:]}"
        found = outcome(run_folder(case))
        # Damage to what this command does not read is not its business.
        assert_equal({**found, "tensors": None}, {**honest, "tensors": None})
    ended = bench.run(case, [*bench.command(scenario), "eval.agreement={}"])
    assert ended.code == 0, f"with an added evaluation: exit {ended.code}: {ended.said[-2000:]}"
    found = outcome(run_folder(case))
    unread = ("checkpoint_before_end_to_end/",)
    for result in (found, more):
        tensors = result["tensors"]
        assert isinstance(tensors, dict)
        result["tensors"] = {k: v for k, v in tensors.items() if not k.startswith(unread)}
    assert_equal(found, more)


def _unfinished(bench: Bench, state: str, file: str, harm: str, share: float) -> None:
    scenario, function, nth, _ = UNFINISHED[state]
    bench.honest(scenario)

    def make(folder: Path) -> None:
        fault = Injection(at_call=function, nth_call=nth, signals=(KILL,))
        ended = bench.run(folder, bench.command(scenario), fault)
        assert ended.code == -KILL, ended.said

    case = bench.case_from(bench.state(f"unfinished {state}", make))
    harm_file(_damaged_file(case, file), harm, share)
    bench.finishes(case, scenario)
