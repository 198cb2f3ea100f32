import pytest

from crvq.files.atomic import write_json
from crvq.report.sweep_index import clear_jobs, read_jobs, sweep_records, update_job
from crvq.tracking.json_values import to_json


@pytest.fixture
def run_folder(tmp_path, make_record):
    def make(name, **changes):
        folder = tmp_path / "results" / name
        write_json(folder / "record.json", to_json(make_record(name, **changes)))
        return str(folder)

    return make


def test_jobs_by_number_not_by_name(tmp_path):
    for number in (10, 9, 0):
        update_job(tmp_path, number, overrides=[f"x={number}"])
    update_job(tmp_path, 9, folder="f")
    jobs = read_jobs(tmp_path)
    assert [job.number for job in jobs] == [0, 9, 10]
    assert (jobs[1].overrides, jobs[1].folder) == (("x=9",), "f")
    clear_jobs(tmp_path)
    assert read_jobs(tmp_path) == []
    clear_jobs(tmp_path)


def test_records_of_every_kind_of_job(tmp_path, run_folder):
    update_job(tmp_path, 0, folder=run_folder("a"))
    update_job(tmp_path, 1, overrides=["x=1", "y=2"], error_type="ConfigError", error_message="no")
    update_job(tmp_path, 2, folder=run_folder("c", status="running"))
    update_job(tmp_path, 3)
    update_job(tmp_path, 4, folder=str(tmp_path / "gone"))
    first, second, third, fourth, fifth = sweep_records(tmp_path)
    assert (first["run_id"], first["status"]) == ("a", "complete")
    assert (second["label"], second["status"]) == ("x=1 y=2", "failed")
    assert second["error"] == {"type": "ConfigError", "message": "no"}
    assert third["status"] == "running"
    assert (fourth["label"], fourth["status"]) == ("job 3", "running")
    assert fifth["error"]["type"] == "RecordError"


def test_a_jobs_own_error_wins_over_an_earlier_complete_record(tmp_path, run_folder):
    error = {"error_type": "SourceError", "error_message": "no model"}
    update_job(tmp_path, 0, folder=run_folder("a"), **error)
    recorded = {"type": "X", "message": "fuller"}
    folder = run_folder("b", status="failed", error=recorded)
    update_job(tmp_path, 1, folder=folder, **error)
    first, second = sweep_records(tmp_path)
    assert (first["status"], first["error"]["message"]) == ("failed", "no model")
    assert second["error"]["message"] == "fuller"


def test_jobs_keep_whether_they_reused_a_record(tmp_path, run_folder):
    for number, reused in enumerate((True, False, None)):
        update_job(tmp_path, number, folder=run_folder(f"r{number}"), reused=reused)
    update_job(tmp_path, 0, overrides=["x=0"])
    assert [record["reused"] for record in sweep_records(tmp_path)] == [True, False, False]
