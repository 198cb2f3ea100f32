import pytest

from crvq.tracking.record import RunRecord
from crvq.tracking.record_schema import read_record


@pytest.fixture
def record(tmp_path, make_config):
    return RunRecord.start(tmp_path, make_config(), "r1")


def test_scores_before_and_after_become_a_recovery(record):
    chance = {"chance": 0.25}
    record.set_zero_shot("arc_easy", {"acc": {"full_precision": 0.5, **chance}}, samples=100)
    record.set_zero_shot("arc_easy", {"acc": {"quantized": 0.4, **chance}}, samples=100)
    record.set_zero_shot("piqa", {"acc": {"quantized": 0.4}})
    read = read_record(record.folder)["zero_shot"]
    assert read["arc_easy"]["metrics"]["acc"]["recovery"] == pytest.approx(0.8)
    assert read["arc_easy"]["samples"] == 100
    assert read["piqa"]["metrics"]["acc"]["recovery"] is None


def test_no_recovery_from_nothing(record):
    record.set_zero_shot("piqa", {"acc": {"full_precision": 0.0, "quantized": 0.1}})
    assert read_record(record.folder)["zero_shot"]["piqa"]["metrics"]["acc"]["recovery"] is None


def test_scores_of_other_questions_are_replaced(record):
    record.set_zero_shot("piqa", {"acc": {"full_precision": 0.5, "quantized": 0.4}}, limit=100)
    record.set_zero_shot("piqa", {"acc": {"full_precision": 0.6}}, limit=None)
    entry = read_record(record.folder)["zero_shot"]["piqa"]
    assert entry["limit"] is None
    assert entry["metrics"]["acc"]["full_precision"] == 0.6
    assert entry["metrics"]["acc"]["quantized"] is None
