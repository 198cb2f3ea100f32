"""A killed run goes on where it was, and ends as if nothing had happened."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crvq.checkpoint.block_store import BlockStore
from crvq.pipeline.run import run, run_folder
from crvq.tracking.record_schema import read_record

ROOT = Path(__file__).parents[2]


class PowerCutError(BaseException):
    """Not an Exception: nothing may catch it on the way out."""


def blocks_on_disk(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "checkpoint").glob("*.safetensors"))
    }


def layers(folder):
    """Rows of layers.csv without their times."""
    with (folder / "layers.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def manifest(folder):
    values = json.loads((folder / "checkpoint" / "manifest.json").read_text())
    del values["manifest_sha256"]  # of a content with times
    for block in values["blocks"].values():
        for row in block["rows"]:
            del row["seconds"]
    return values


def cut_power_after(monkeypatch, blocks, *, before_manifest=False):
    """Die when so many blocks are stored; or just after the next one's file, before its entry."""
    original = BlockStore.save_block
    saved = []

    def save(self, block, *rest):
        if len(saved) == blocks:
            if before_manifest:
                monkeypatch.setattr("crvq.checkpoint.manifest.Manifest.write", power_cut)
                original(self, block, *rest)
            raise PowerCutError
        saved.append(block)
        original(self, block, *rest)

    def power_cut(self, folder):
        raise PowerCutError

    monkeypatch.setattr(BlockStore, "save_block", save)


def assert_same(folder, whole):
    assert blocks_on_disk(folder) == blocks_on_disk(whole)
    assert manifest(folder) == manifest(whole)
    assert layers(folder) == layers(whole)
    ours, theirs = read_record(folder), read_record(whole)
    for key in ("bits", "perplexity", "result_digest", "packed_bytes", "effective"):
        assert ours[key] == theirs[key], key


VARIANTS = {
    "plain": [],
    "full_precision_stream": ["calibration.stream=full_precision"],
    "target_correction": ["calibration.target_correction=0.5"],
    "model_scope": ["crvq.codebook_scope=model", "crvq.codebook_dtype=int8"],
    "block_scope": ["crvq.codebook_scope=block"],
    "bfloat16": ["activation_dtype=bfloat16"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cut_run_ends_as_the_uninterrupted_one(
    finished, variant, compose_run, tmp_path, monkeypatch
):
    whole = finished(*VARIANTS[variant])
    config = compose_run(*VARIANTS[variant], f"results_dir={tmp_path / 'cut'}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 1)
        with pytest.raises(PowerCutError):
            run(config)
    folder = run_folder(config)
    assert read_record(folder)["status"] != "complete"
    # The first block's tensors are not written again.
    kept = (folder / "checkpoint" / "block-000.safetensors").stat().st_mtime_ns
    assert run(config) == folder
    assert (folder / "checkpoint" / "block-000.safetensors").stat().st_mtime_ns == kept
    record = read_record(folder)
    assert record["status"] == "complete"
    assert record["error"] is None
    assert record["resumes"] == 1
    assert any("resuming with 1 completed blocks" in note for note in record["notes"])
    assert_same(folder, whole)


def test_a_cut_between_a_blocks_file_and_its_entry_loses_that_block_only(
    finished, compose_run, tmp_path, monkeypatch
):
    whole = finished()
    config = compose_run(f"results_dir={tmp_path / 'cut'}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 1, before_manifest=True)
        with pytest.raises(PowerCutError):
            run(config)
    folder = run_folder(config)
    assert set(blocks_on_disk(folder)) == {"block-000.safetensors", "block-001.safetensors"}
    run(config)
    assert any("resuming with 1 completed blocks" in note for note in read_record(folder)["notes"])
    assert_same(folder, whole)


@pytest.mark.parametrize("file", ["block-001.safetensors", "shared.safetensors", "manifest.json"])
def test_a_damaged_file_costs_what_came_after_it(
    finished, file, compose_run, tmp_path, monkeypatch
):
    variant = VARIANTS["model_scope"]
    whole = finished(*variant)
    config = compose_run(*variant, f"results_dir={tmp_path / 'cut'}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 2)
        with pytest.raises(PowerCutError):
            run(config)
    damaged = run_folder(config) / "checkpoint" / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    folder = run(config)
    notes = " ".join(read_record(folder)["notes"])
    expected = {
        "block-001.safetensors": "resuming with 1 completed blocks",
        "shared.safetensors": "resuming with 2 completed blocks",
        "manifest.json": "is damaged",
    }
    assert expected[file] in notes
    assert_same(folder, whole)


def test_blocks_of_other_weights_or_text_are_not_gone_on_from(
    compose_run, tiny_texts, tmp_path, monkeypatch
):
    text = tmp_path / "text.txt"
    text.write_text(tiny_texts[0].read_text())
    config = compose_run(f"calibration.path={text}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 2)
        with pytest.raises(PowerCutError):
            run(config)
    # The same path, and so the same run, but another text.
    text.write_text(" ".join(reversed(text.read_text().split())))
    record = read_record(run(config))
    (note,) = [note for note in record["notes"] if "starting over" in note]
    assert "calibration_tokens_sha256: " in note
    assert len(layers(run_folder(config))) == 21


KILLED = """
import os, runpy, signal, sys
from crvq.tracking.record import RunRecord
heard = RunRecord.block_quantized
def kill(self, block, rows, seconds):
    heard(self, block, rows, seconds)
    if block == 1:
        os.kill(os.getpid(), signal.SIGKILL)
RunRecord.block_quantized = kill
sys.argv = ["run.py", *{overrides!r}]
runpy.run_path({program!r}, run_name="__main__")
"""


def test_a_real_sigkill_of_run_py(finished, compose_run, tiny_overrides, tmp_path):
    whole = finished()
    overrides = [o for o in tiny_overrides if not o.startswith("results_dir")] + [
        f"results_dir={tmp_path / 'killed'}",
        "compare_with=null",
    ]
    # Only the same number of threads gives the same bits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(program=str(ROOT / "run.py"), overrides=overrides)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    config = compose_run(f"results_dir={tmp_path / 'killed'}")
    folder = run_folder(config)
    assert read_record(folder)["status"] == "running"
    assert len(blocks_on_disk(folder)) == 2
    run(config)
    record = read_record(folder)
    assert (record["status"], record["resumes"]) == ("complete", 1)
    assert any("resuming with 2 completed blocks" in note for note in record["notes"])
    assert_same(folder, whole)
