import json

import pytest

from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import SCHEMA_VERSION, RecordError, read_record, write_record


@pytest.fixture
def record(tmp_path, make_config):
    return RunRecord.start(tmp_path, make_config(), "r1")


def _edit(record, **changes):
    values = json.loads(record.path.read_text())
    values.update(changes)
    write_record(record.path, {k: v for k, v in values.items() if v != "GONE"})


def test_reads_folder_and_file(record):
    assert read_record(record.folder) == read_record(record.path) == record.data


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_perplexity_may_be_nan_or_infinite(record, value):
    record.set_perplexity("wiki", quantized=value, tokens=8, context=4)
    json.loads(record.path.read_text(), parse_constant=pytest.fail)  # strict JSON on disk
    assert str(read_record(record.path)["perplexity"]["wiki"]["quantized"]) == str(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": "GONE"}, "run_id"),
        ({"status": "well"}, "status"),
        ({"seconds": {"load": "long"}}, "seconds.load"),
        ({"bits": {"codes": 1}}, "bits.average_quantized_weights"),
        ({"schema_version": SCHEMA_VERSION + 1}, "Upgrade crvq"),
    ],
    ids=["missing", "literal", "type", "section", "future"],
)
def test_damage_names_the_key(record, change, message):
    _edit(record, **change)
    with pytest.raises(RecordError, match=message):
        read_record(record.path)


def test_unknown_keys_are_kept(record):
    _edit(record, colour="blue")
    assert read_record(record.path)["colour"] == "blue"


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"], ids=["empty", "cut", "list", "bytes"])
def test_not_a_record(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match=r"record\.json"):
        read_record(path)


def test_no_record(tmp_path):
    with pytest.raises(RecordError, match="no run record"):
        read_record(tmp_path / "record.json")
