import pytest

from crvq.files.atomic import write_json
from crvq.report.tables import load_runs, load_timed_runs


@pytest.fixture
def save(tmp_path, make_run):
    """Writes the record of one run into an experiment, with the seconds of its solver."""

    def saved(experiment, seconds, **changes):
        times = {"experiment": experiment, "seconds": {"quantize": seconds}}
        record = make_run(record={**times, "updated": f"2025-01-01T00:00:{seconds:02.0f}"})
        record |= {"run_id": "r", **changes}
        write_json(tmp_path / experiment / record["run_id"] / "record.json", record)

    return saved


def quantize(runs):
    return runs["seconds.quantize"].tolist()


@pytest.mark.parametrize("seconds", [10, 30])
def test_a_run_that_was_timed_again_keeps_its_own_seconds_elsewhere(save, tmp_path, seconds):
    save("main", 20)
    save("smollm2-quantization-time", seconds)  # before or after
    assert quantize(load_timed_runs(tmp_path)) == [seconds]
    runs = load_runs(tmp_path)
    assert quantize(runs) == [20]
    assert runs["experiment"].tolist() == ["main"]


@pytest.mark.parametrize("experiment", ["main", "smollm2-quantization-time"])
def test_one_kind_of_experiment_alone_serves_for_both(save, tmp_path, experiment):
    save(experiment, 20)
    assert quantize(load_runs(tmp_path)) == quantize(load_timed_runs(tmp_path)) == [20]


def test_a_timed_run_that_failed_is_no_reason_to_leave_out_the_others(save, tmp_path):
    save("main", 20)
    save("smollm2-quantization-time", 10, status="failed")
    assert quantize(load_timed_runs(tmp_path)) == [20]


def test_experiments_are_known_by_their_whole_name(save, tmp_path):
    save("sometimes", 20)
    save("smollm2-quantization-time", 10)
    assert quantize(load_timed_runs(tmp_path)) == [10]
    assert load_runs(tmp_path)["experiment"].tolist() == ["sometimes"]


def test_an_empty_folder(tmp_path):
    assert load_runs(tmp_path).empty
    assert load_timed_runs(tmp_path).empty
