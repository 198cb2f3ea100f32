import json
import os
import subprocess
import sys

import pytest

from crvq.config import CalibrationConfig
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import NewerRecordError, RecordError, read_record


@pytest.fixture
def start(tmp_path, make_config):
    def start(run_id="r1", **options):
        return RunRecord.start(tmp_path / "run", make_config(), run_id, **options)

    return start


def on_disk(record):
    return json.loads(record.path.read_text())


def test_start_writes_what_is_known(tmp_path, make_config):
    config = make_config(seed=3, calibration=CalibrationConfig(seed=5))
    record = RunRecord.start(tmp_path, config, "r1", sweep="s")
    values = on_disk(record)
    assert values["status"] == "running"
    assert values["seeds"] == {"seed": 3, "calibration": 5}
    assert values["config"]["method_params"] == {"critical_ratio": 0.02, "codebooks": 4}
    assert values["sweep"] == "s"
    assert values["attempts"][0]["pid"] == os.getpid()
    assert values["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_every_change_is_on_disk_at_once(start):
    record = start()
    record.set("device", "cpu")
    record.set_effective(critical_ratio=0.0139)
    record.set_effective(codebooks=2)
    record.set_perplexity("wiki", full_precision=21.5, tokens=64, context=8)
    record.set_perplexity("wiki", quantized=30.0)
    record.add_note("one")
    record.add_note("one")
    values = on_disk(record)
    assert values["device"] == "cpu"
    assert values["effective"] == {"critical_ratio": 0.0139, "codebooks": 2}
    wiki = values["perplexity"]["wiki"]
    assert (wiki["full_precision"], wiki["quantized"], wiki["context"]) == (21.5, 30.0, 8)
    assert values["notes"] == ["one"]


def test_bits_averages(start):
    record = start()
    parts = {"codes": 300.0, "codebooks": 100.0, "scales": 16.0}
    record.set_bits(parts, quantized_weights=208, all_weights=308, other_weights_bits=1600.0)
    bits = on_disk(record)["bits"]
    assert bits["average_quantized_weights"] == (300 + 100 + 16) / 208
    assert bits["average_all_weights"] == (300 + 100 + 16 + 100 * 16) / 308
    assert (bits["codes"], bits["permutation"]) == (300.0, 0.0)


@pytest.mark.parametrize(
    ("section", "value"), [("colour", 1), ("seconds", {"load": "x"}), ("status", "well")]
)
def test_wrong_sections_are_refused_and_nothing_is_written(start, section, value):
    record = start()
    before = record.path.read_text()
    with pytest.raises(RecordError, match=section):
        record.set(section, value)
    assert record.path.read_text() == before


def test_complete(start):
    record = start()
    assert not RunRecord.is_complete(record.folder)
    record.complete()
    assert RunRecord.is_complete(record.folder)
    assert on_disk(record)["finished"] is not None


@pytest.mark.parametrize("text", [None, "{", '{"status": "complete"}'])
def test_a_missing_or_damaged_record_is_not_complete(tmp_path, text):
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    assert not RunRecord.is_complete(tmp_path)


def test_failure_is_recorded_and_raised(start):
    record = start()
    with pytest.raises(ZeroDivisionError), record:
        _ = 1 / 0
    error = on_disk(record)["error"]
    assert on_disk(record)["status"] == "failed"
    assert (error["type"], error["message"]) == ("ZeroDivisionError", "division by zero")
    assert any("1 / 0" in line for line in error["traceback"])


def test_resume_continues_an_unfinished_run(start, make_row):
    first = start()
    first.add_seconds("quantize", 2.0)
    first.add_note("note")
    first.set_peak_memory(500, 50)
    first.add_layer_rows([make_row(0), make_row(1)])
    first.fail(ValueError("x"))

    second = start()
    second.add_seconds("quantize", 3.0)
    second.set_peak_memory(400, 60)
    second.complete()
    values = on_disk(second)
    assert values["seconds"] == {"quantize": 5.0}
    assert (values["peak_memory_bytes"], values["peak_gpu_memory_bytes"]) == (500, 60)
    assert values["notes"] == ["note"]
    assert values["started"] == first.data["started"]
    assert values["error"] is None
    assert (values["resumes"], len(values["attempts"])) == (1, 2)
    assert second.layer_rows == [make_row(0), make_row(1)]


def test_a_complete_record_is_never_overwritten(start):
    first = start()
    first.complete()
    before = first.path.read_bytes()
    for fresh in (False, True):
        with pytest.raises(RecordError, match="complete record, which is not overwritten"):
            start(fresh=fresh)
    assert first.path.read_bytes() == before


@pytest.mark.parametrize("why", ["fresh", "other run"])
def test_start_over(start, make_row, why):
    first = start("other" if why == "other run" else "r1")
    first.add_seconds("load", 1.0)
    first.add_layer_rows([make_row()])
    second = start(fresh=why == "fresh")
    values = on_disk(second)
    assert (values["status"], values["seconds"], values["resumes"]) == ("running", {}, 0)
    assert second.layer_rows == read_layers(second.folder / "layers.csv") == []


def test_a_damaged_record_is_moved_aside_with_a_note(start):
    first = start()
    first.path.write_text("{")
    (note,) = on_disk(start())["notes"]
    (kept,) = (first.folder / "superseded").iterdir()
    assert kept.read_text() == "{"
    assert f"It was moved to {kept}" in note


def test_a_record_of_a_newer_version_is_neither_read_nor_replaced(start):
    first = start()
    values = {**on_disk(first), "schema_version": 99}
    first.path.write_text(json.dumps(values))
    for act in (start, lambda: RunRecord.is_complete(first.folder)):
        with pytest.raises(NewerRecordError, match="Upgrade crvq"):
            act()
    assert on_disk(first) == values


@pytest.mark.parametrize("place", range(0, 2000, 37))
def test_no_flipped_bit_of_a_record_goes_unnoticed(start, place):
    record = start()
    record.set_perplexity("wiki", full_precision=21.5, tokens=64, context=8)
    record.complete()
    content = bytearray(record.path.read_bytes())
    content[place % len(content)] ^= 1 << place % 8
    record.path.write_bytes(content)
    try:
        values = read_record(record.path)
    except RecordError:
        return
    assert values == record.data  # white space between values


def test_a_stopped_run_is_no_failure(start):
    record = start()
    with pytest.raises(KeyboardInterrupt), record:
        raise KeyboardInterrupt
    assert (on_disk(record)["status"], on_disk(record)["error"]) == ("stopped", None)


def test_an_error_after_the_end_leaves_the_record_complete(start):
    record = start()
    record.complete()
    with pytest.raises(KeyboardInterrupt), record:
        raise KeyboardInterrupt
    assert on_disk(record)["status"] == "complete"


def test_layer_rows_replace_and_keep(start, make_row):
    record = start()
    record.add_layer_rows([make_row(1)])
    record.add_layer_rows([make_row(0), make_row(0, "mlp.up_proj")])
    record.add_layer_rows([make_row(0, rounds=9)])
    rows = read_layers(record.folder / "layers.csv")
    assert [(row.block, row.kind, row.rounds) for row in rows] == [
        (0, "attn.q_proj", 9),
        (0, "mlp.up_proj", 3),
        (1, "attn.q_proj", 3),
    ]
    record.keep_blocks([1])
    assert [row.block for row in read_layers(record.folder / "layers.csv")] == [1]


def test_as_listener(start, make_row):
    record = start()
    record.block_quantized(0, [make_row()], 1.0)
    record.message("asked 0.02, used 0.0139")
    assert [row.name for row in read_layers(record.folder / "layers.csv")] == [make_row().name]
    assert on_disk(record)["notes"] == ["asked 0.02, used 0.0139"]


def test_a_kill_at_any_write_leaves_a_readable_record(tmp_path):
    """A process that rewrites its record without pause is killed; the file is whole."""
    program = """
import sys
from pathlib import Path
from crvq.config import CalibrationConfig, ModelConfig, RunConfig
from crvq.tracking.record import RunRecord
from crvq.config import StrictModel
config = RunConfig(model=ModelConfig(name="m", source="path", path="p"), method="crvq",
                   method_params=StrictModel(), calibration=CalibrationConfig())
record = RunRecord.start(Path(sys.argv[1]), config, "r1")
print("started", flush=True)
while True:
    record.add_seconds("load", 1.0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        while read_record(tmp_path)["seconds"].get("load", 0) < 20:
            assert process.poll() is None
        process.kill()
    assert read_record(tmp_path)["seconds"]["load"] >= 20


def test_the_stage_begun_last_is_on_disk(start):
    record = start()
    record.stage_started("prepare", 2)
    record.stage_started("quantize", 30)
    assert read_record(record.path)["stage"] == {"name": "quantize", "total": 30}
