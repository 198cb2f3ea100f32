"""Finished runs are never lost: new attempts, locks, references and repairs."""

import json
import os
import shutil
import signal

import pytest
import torch

from crvq.checkpoint import BlockStore
from crvq.errors import CheckpointError, ConfigError, SourceError
from crvq.files.run_lock import LockedError, RunLock
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.run import execute, run, run_folder
from crvq.pipeline.run_folder import ATTEMPTS, REPLACED, lock_file, publish, settle
from crvq.tracking.record_schema import RecordError, read_record, write_record
from crvq.tracking.record_values import RecordValues
from tests.forked import run_py
from tests.pipeline.test_finetune import END_TO_END
from tests.pipeline.test_resume import PowerCutError, blocks_on_disk, cut_power_after

ASKED = ("eval.agreement={}",)


def content(folder):
    """Every file of a run by its name, but for what a later attempt may add next to it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fail(*_):
    raise SourceError("no such file: wiki.test.raw")


@pytest.fixture
def no_quantizing(monkeypatch):
    def stop():
        def quantize(*_):
            raise AssertionError("quantized again")

        monkeypatch.setattr(BlockwiseQuantizer, "_quantize", quantize)

    return stop


REFUSALS = {
    "forced, with a text that is gone": ["force=true", "eval.perplexity.file.path=/nowhere.raw"],
    "forced, with a context too long": ["force=true", "eval.perplexity.file.context=65"],
    "blocks gone, with a context too long": ["eval.perplexity.file.context=65"],
    "blocks gone, with a text that is gone": ["eval.perplexity.file.path=/nowhere.raw"],
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_command_leaves_a_finished_run_as_it_was(finished, case, compose_run):
    folder = finished()
    if case.startswith("blocks gone"):
        shutil.rmtree(folder / "checkpoint")
    before = content(folder)
    with pytest.raises(Exception, match=r"no such file|longer than the model's context"):
        run(compose_run(*REFUSALS[case]))
    assert content(folder) == before
    assert not (folder.parent / ATTEMPTS).exists()


@pytest.mark.parametrize("error", [SourceError("gone"), KeyboardInterrupt(), PowerCutError()])
def test_an_attempt_that_fails_leaves_the_finished_run(finished, error, compose_run, monkeypatch):
    folder = finished()
    before = content(folder)

    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(BlockwiseQuantizer, "_quantize", stop)
        with pytest.raises(type(error)):
            run(compose_run("force=true"))
    assert content(folder) == before
    status = read_record(folder.parent / ATTEMPTS / folder.name)["status"]
    assert status == ("stopped" if isinstance(error, KeyboardInterrupt) else "failed")


def test_a_forced_attempt_replaces_the_finished_run_when_it_is_complete(finished, compose_run):
    folder = finished()
    before = content(folder)
    assert run(compose_run("force=true")) == folder
    (kept,) = (folder.parent / REPLACED).iterdir()
    assert content(kept) == before
    assert read_record(folder)["result_digest"] == read_record(kept)["result_digest"]
    assert read_record(folder)["started"] > read_record(kept)["started"]
    assert not list((folder.parent / ATTEMPTS).iterdir())


def test_a_forced_attempt_that_was_killed_is_resumed_by_the_same_command(
    finished, compose_run, monkeypatch
):
    folder = finished()
    with monkeypatch.context() as patch:
        cut_power_after(patch, 1)
        with pytest.raises(PowerCutError):
            run(compose_run("force=true"))
    run(compose_run("force=true"))
    assert read_record(folder)["resumes"] == 1
    assert any("resuming with 1 completed" in note for note in read_record(folder)["notes"])


def test_force_on_an_unfinished_run_starts_over_and_keeps_it(compose_run, monkeypatch):
    with monkeypatch.context() as patch:
        cut_power_after(patch, 2)
        with pytest.raises(PowerCutError):
            run(compose_run())
    folder = run(compose_run("force=true"))
    (kept,) = (folder.parent / REPLACED).iterdir()
    assert len(blocks_on_disk(kept)) == 2
    assert read_record(folder)["resumes"] == 0


def test_a_swap_that_was_interrupted_is_finished(finished, compose_run, tmp_path, no_quantizing):
    folder = finished()
    working = folder.parent / ATTEMPTS / folder.name
    working.parent.mkdir()
    folder.rename(working)
    no_quantizing()
    assert run(compose_run()) == folder
    assert not working.exists()
    settle(folder)  # nothing left to do
    assert publish(folder, folder) is None


def test_a_forced_attempt_that_was_complete_but_not_in_place_is_put_there(
    finished, compose_run, no_quantizing
):
    """Killed between its last write and the swap: the same command has nothing left to compute."""
    folder = finished()
    first = content(folder)
    working = folder.parent / ATTEMPTS / folder.name
    shutil.copytree(folder, working)
    record = read_record(working)
    write_record(working / "record.json", {**record, "forced": True})
    second = content(working)
    no_quantizing()
    assert execute(compose_run("force=true")).reused
    (kept,) = (folder.parent / REPLACED).iterdir()
    assert (content(folder), content(kept)) == (second, first)
    assert not list((folder.parent / ATTEMPTS).iterdir())


def test_another_number_of_threads_resumes_and_notes_it(compose_run, monkeypatch):
    with monkeypatch.context() as patch:
        cut_power_after(patch, 2)
        with pytest.raises(PowerCutError):
            run(compose_run())
    folder = run_folder(compose_run())
    before = blocks_on_disk(folder)
    threads = torch.get_num_threads()
    try:
        run(compose_run(f"threads={threads + 1}"))
    finally:
        torch.set_num_threads(threads)
    after = blocks_on_disk(folder)
    assert {name: after[name] for name in before} == before
    (note,) = [note for note in read_record(folder)["notes"] if "differs" in note]
    assert f"threads: {threads} then, {threads + 1} now" in note
    assert "not bit-identical" in note


def test_blocks_made_from_something_else_are_moved_aside(compose_run, tiny_texts, monkeypatch,
                                                         tmp_path):  # fmt: skip
    text = tmp_path / "text.txt"
    text.write_text(tiny_texts[0].read_text())
    config = compose_run(f"calibration.path={text}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 2)
        with pytest.raises(PowerCutError):
            run(config)
    folder = run_folder(config)
    before = blocks_on_disk(folder)
    text.write_text(" ".join(reversed(text.read_text().split())))
    run(config)
    (kept,) = (folder / "superseded").iterdir()
    assert kept.name.startswith("checkpoint-")
    assert {file.name for file in kept.glob("*.safetensors")} == set(before)


# -- damage of finished runs


@pytest.mark.parametrize("name", ["layers.csv", "finetune.csv"])
def test_damaged_tables_of_a_finished_run_are_written_again(
    finished, name, compose_run, no_quantizing
):
    asked = (*END_TO_END,)
    folder = finished(*asked)
    honest = (folder / name).read_bytes()
    no_quantizing()
    for damage in (honest[:-2], honest.replace(b"1", b"2", 1), None):
        (folder / name).unlink() if damage is None else (folder / name).write_bytes(damage)
        run(compose_run(*asked))
        assert (folder / name).read_bytes() == honest


def test_a_damaged_table_without_its_blocks_is_an_error_that_keeps_the_run(finished, compose_run):
    folder = finished()
    shutil.rmtree(folder / "checkpoint")
    (folder / "layers.csv").write_text("x")
    with pytest.raises(RecordError, match="force=true: the present record is kept"):
        run(compose_run())
    assert read_record(folder)["status"] == "complete"


@pytest.mark.parametrize("asked", [(), ("finetune=block", "finetune.samples=8"), END_TO_END])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_damaged_block_is_made_again_bit_for_bit(finished, asked, block, compose_run):
    folder = finished(*asked, "eval=none", "calibration.length=32")
    honest = content(folder / "checkpoint")
    file = folder / "checkpoint" / f"block-{block:03d}.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)
    wanted = [one for one in asked if not one.startswith("eval")]
    run(compose_run(*wanted, "calibration.length=32", *ASKED))
    assert content(folder / "checkpoint") == honest
    record = read_record(folder)
    assert record["perplexity"]["file"]["quantized"] > 1
    assert not list((folder.parent / ATTEMPTS).iterdir())


def test_a_block_that_cannot_be_made_again_keeps_all_others(finished, compose_run, monkeypatch):
    folder = finished("eval=none")
    file = folder / "checkpoint" / "block-001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = content(folder / "checkpoint")
    monkeypatch.setattr(BlockStore, "digest", lambda self: str(self.folder.parent.name))
    record = json.loads((folder / "record.json").read_text())
    write_record(folder / "record.json", {**record, "result_digest": folder.name})
    with pytest.raises(CheckpointError, match="not bit-identical"):
        run(compose_run())
    assert content(folder / "checkpoint") == before
    assert read_record(folder)["status"] == "complete"


def test_blocks_of_a_newer_version_are_neither_read_nor_replaced(finished, compose_run):
    folder = finished()
    manifest = folder / "checkpoint" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    before = content(folder)
    with pytest.raises(CheckpointError, match="format version 99"):
        run(compose_run(*ASKED))
    assert content(folder) == before
    assert not (folder.parent / REPLACED).exists()


# -- references


def test_a_reference_is_used_only_when_that_is_asked_for(
    finished, compose_run, no_quantizing, tmp_path
):
    results = tmp_path / "results"
    made = finished()
    reference = results / "reference" / "other" / made.name
    reference.parent.mkdir(parents=True)
    made.rename(reference)
    before = content(reference)
    assert execute(compose_run("reuse=reference")).folder == reference
    assert execute(compose_run("reuse=reference")).reused
    outcome = execute(compose_run())
    assert (outcome.folder, outcome.reused) == (made, False)
    assert execute(compose_run()).reused
    no_quantizing()
    # A run of one's own comes first.
    assert execute(compose_run("reuse=reference")).folder == made
    assert content(reference) == before


# -- locks


def test_a_second_process_waits_and_finds_the_work_done(tiny_overrides, compose_run, tmp_path):
    both = [run_py([*tiny_overrides, "compare_with=null"], tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.said() for process in both]
    folder = run_folder(compose_run())
    record = read_record(folder)
    assert (record["status"], record["resumes"], len(record["attempts"])) == ("complete", 0, 1)
    log = (folder / "run.log").read_text().splitlines()
    assert len([line for line in log if "block 0: relative loss" in line]) == 1


def test_if_locked_error_refuses_and_leaves_the_run_alone(compose_run):
    folder = run_folder(compose_run())
    with RunLock(lock_file(folder)), pytest.raises(LockedError, match="same command again"):
        run(compose_run("if_locked=error"))
    assert not folder.exists()


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_by_a_signal_says_so_and_resumes(
    number, tiny_overrides, compose_run, tmp_path
):
    def signal_in_block_1():
        heard = RecordValues.block_quantized

        def stop(self, block, rows, seconds):
            heard(self, block, rows, seconds)
            if block == 1:
                os.kill(os.getpid(), number)

        RecordValues.block_quantized = stop

    stopped = run_py([*tiny_overrides, "compare_with=null"], tmp_path, signal_in_block_1)
    assert stopped.wait() == 128 + number, stopped.said()
    assert "Traceback" not in stopped.said()
    assert "the same command resumes it" in stopped.said()
    folder = run_folder(compose_run())
    record = read_record(folder)
    assert (record["status"], record["error"]) == ("stopped", None)
    run(compose_run())
    record = read_record(folder)
    assert (record["status"], record["resumes"]) == ("complete", 1)
    assert any("resuming with 2 completed" in note for note in record["notes"])


# -- other content behind the same path


@pytest.mark.parametrize("key", ["model.path", "calibration.path", "eval.perplexity.file.path"])
def test_a_finished_run_of_other_content_is_not_reused(
    key, compose_run, tiny_folder, tiny_texts, tmp_path
):
    place = tmp_path / ("input" if key == "model.path" else "input.txt")
    source = {"model.path": tiny_folder, "calibration.path": tiny_texts[0]}.get(key, tiny_texts[1])
    shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
    asked = compose_run(f"{key}={place}")
    folder = run(asked)
    before = read_record(folder)
    changed = place / "config.json" if place.is_dir() else place
    text = changed.read_text()
    os.utime(changed)  # touched, and the same
    assert execute(asked).reused
    changed.write_text(text.replace("10000.0", "10.0") if place.is_dir() else text[::-1])
    with pytest.raises(ConfigError, match=f"{key}=.* has changed since the run"):
        run(asked)
    assert read_record(folder) == before
    run(compose_run(f"{key}={place}", "force=true"))
    assert read_record(folder)["started"] > before["started"]
    assert execute(asked).reused


def test_a_reference_that_does_not_serve_is_said(compose_run, caplog):
    assert not execute(compose_run("reuse=reference")).reused
    assert "results_dir/reference has no run with this identity, so it is computed" in caplog.text
