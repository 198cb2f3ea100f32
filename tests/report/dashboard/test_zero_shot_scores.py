from crvq.report.dashboard.protocols import protocol_names
from crvq.report.dashboard.zero_shot_scores import zero_shot_scores
from crvq.report.zero_shot_table import AT_CHANCE, BELOW_CHANCE

from .conftest import zero_shot


def scores(record):
    return zero_shot_scores(record, protocol_names([record]))


def test_both_models_are_set_against_chance(make_record):
    record = make_record(zero_shot={"arc": zero_shot(0.49, chance=0.5)})
    record["zero_shot"]["arc"]["metrics"]["acc"]["full_precision"] = 0.32
    (task,) = scores(record).values()
    assert task["metrics"]["acc"]["quantized_flag"] == AT_CHANCE
    assert task["metrics"]["acc"]["full_precision_flag"] == BELOW_CHANCE
    assert task["metrics"]["acc"]["full_precision"] == 0.32


def test_tasks_go_by_their_limit(make_record):
    record = make_record(zero_shot={"arc": zero_shot(0.5, limit=100)})
    assert list(scores(record)) == ["arc, first 100"]


def test_without_scores_there_is_nothing(make_record):
    assert scores(make_record()) == {}
