import pandas as pd
import pytest

from crvq.files.atomic import write_json
from crvq.report.finished_runs import finished_runs, setting_key
from crvq.report.records import load_records


def test_only_complete_runs_and_each_once(tmp_path, make_record):
    records = [
        make_record("a", updated="2025-01-01T00:00:00+00:00", seconds={"quantize": 1.0}),
        make_record("a", updated="2025-02-01T00:00:00+00:00", seconds={"quantize": 2.0}),
        make_record("b", status="failed"),
        {**make_record("c", status="running"), "bits": None},
    ]
    for name, record in zip(("first", "second", "first", "first"), records, strict=True):
        folder = tmp_path / name / record["run_id"]
        write_json(folder / "record.json", {**record, "experiment": name})
    damaged = tmp_path / "first" / "d" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    runs = finished_runs(load_records(tmp_path))
    assert runs["run_id"].tolist() == ["a"]
    assert runs["experiment"].tolist() == ["first, second"]
    assert runs["seconds"].tolist() == [2.0]
    assert runs.columns.is_unique


def test_of_the_same_configuration_and_seeds_the_latest_run_counts(runs_of, make_run):
    def run(value, day, **record):
        return make_run(value, record={"updated": f"2025-01-0{day}T00:00:00+00:00", **record})

    runs = runs_of(run(60.0, 2), run(50.0, 3), run({}, 4), run(40.0, 1, device="cuda:0"))
    assert runs["perplexity: wiki, 64"].tolist() == [50.0, 40.0]
    assert runs["setting"].nunique() == 2  # a GPU rounds otherwise, and is faster


def test_an_evaluation_in_another_experiment_is_not_lost(runs_of, make_run):
    first = make_run(50.0)
    timed = make_run({}, record={"experiment": "time", "updated": "2026-01-01T00:00:00+00:00"})
    runs = runs_of(first, {**timed, "run_id": first["run_id"]})
    assert runs["perplexity: wiki, 64"].tolist() == [50.0]
    assert runs["experiment"].tolist() == ["default, time"]


def test_sizes_and_times_add_up(runs_of, make_run):
    runs = runs_of(make_run(bits=1.5, record={"seconds": {"load": 2.0, "quantize": 40.0}}))
    assert runs["bits"].tolist() == [1.5]
    assert runs["model_bytes"].tolist() == [2.5 * 200 / 8]
    assert runs["seconds"].tolist() == [42.0]


def test_settings_are_equal_but_for_seeds_labels_and_evaluation(runs_of, make_run):
    calibration = {"seed": 0, "samples": 8}
    base = {"calibration": calibration}
    same = [
        make_run(config=base),
        make_run(config={**base, "seed": 1}),
        make_run(config={"calibration": {**calibration, "seed": 7}}),
        make_run(config={**base, "experiment": "other", "tracking": {"mode": "online"}}),
        make_run(config={**base, "eval": {"perplexity": {"c4": {"context": 4}}}}),
        make_run({"c4": 9.0}, config={**base, "budget": {"name": "x"}}),
    ]
    other = [
        make_run(config={"calibration": {**calibration, "samples": 9}}),
        make_run(config=base, reorder="stratified"),
        make_run(config=base, group_size=4),
        make_run(config={**base, "model": {"name": "tiny", "path": "elsewhere"}}),
    ]
    runs = runs_of(*same, *other)
    kept = runs.set_index("run_id")["setting"]
    ours = [kept[run["run_id"]] for run in same if run["run_id"] in kept]
    assert len(ours) == 3  # three draws of seeds
    assert len(set(ours)) == 1
    assert kept.nunique() == 1 + len(other)


def test_older_records_have_new_keys_at_their_default(runs_of, make_run):
    newer = {"calibration": {"samples": 8, "stream": "quantized"}, "seed": 1}
    older = {"calibration": {"samples": 8}}
    runs = runs_of(make_run(config=newer), make_run(config=older))
    assert runs["setting"].nunique() == 1
    changed = {**newer, "calibration": {"samples": 8, "stream": "full_precision"}}
    assert runs_of(make_run(config=changed), make_run(config=older))["setting"].nunique() == 2


def test_so_have_the_parameters_of_methods(runs_of, make_run):
    runs = runs_of(make_run(beam=1), make_run(config={"seed": 1}), make_run(beam=4))
    first, second, third = runs["setting"]
    assert first == second != third


def test_a_method_from_elsewhere_is_no_error(runs_of, make_run):
    runs = runs_of(make_run(method="mine", knob=1), make_run(method="mine"))
    assert runs["setting"].nunique() == 2


def test_numbers_that_pandas_made_floats_are_still_equal(runs_of, make_run):
    """A column with gaps holds 8.0 where a full one holds 8."""
    both = runs_of(make_run(), make_run(method="rtn", bits=1.0))
    alone = runs_of(make_run())
    assert both["setting"][0] == alone["setting"][0]


def test_a_key_can_be_left_out(runs_of, make_run):
    rows = runs_of(make_run(reorder="sorted"), make_run(reorder="none")).to_dict("records")
    but = ("config.method_params.reorder",)
    assert setting_key(rows[0]) != setting_key(rows[1])
    assert setting_key(rows[0], but) == setting_key(rows[1], but)


@pytest.mark.parametrize("records", [pd.DataFrame(), pd.DataFrame({"status": ["failed"]})])
def test_nothing_finished_is_an_empty_frame(records):
    assert finished_runs(records).empty


def test_one_command_on_two_devices_is_two_runs(runs_of, make_run):
    cpu = make_run(50.0, record={"device": "cpu"})
    gpu = make_run(40.0, record={"device": "cuda:0", "experiment": "other"})
    runs = runs_of(cpu, {**gpu, "run_id": cpu["run_id"]})
    assert runs["perplexity: wiki, 64"].tolist() == [50.0, 40.0]
    assert runs["experiment"].tolist() == ["default", "other"]
