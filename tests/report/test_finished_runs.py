import pandas as pd
import pytest

from crvq.files.atomic import write_json
from crvq.report.finished_runs import (
    distinct,
    finished_runs,
    older_note,
    older_revisions,
    setting_key,
)
from crvq.report.records import load_records


def put(folder, record):
    write_json(folder / record["experiment"] / record["run_id"] / "record.json", record)


def test_a_row_is_one_complete_record(tmp_path, make_record):
    early, late = "2025-01-01T00:00:00+00:00", "2025-02-01T00:00:00+00:00"
    put(tmp_path, make_record("a", experiment="one", updated=early, seconds={"quantize": 1.0}))
    put(tmp_path, make_record("a", experiment="two", updated=late, seconds={"load": 2.0}))
    put(tmp_path, make_record("b", experiment="one", status="failed"))
    put(tmp_path, {**make_record("c", experiment="one", status="running"), "bits": None})
    damaged = tmp_path / "one" / "d" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    runs = finished_runs(load_records(tmp_path))
    assert runs[["run_id", "experiment"]].to_numpy().tolist() == [["a", "one"], ["a", "two"]]
    assert runs["seconds"].tolist() == [1.0, 2.0]  # what one lacks is not filled from the other
    assert runs.columns.is_unique
    assert distinct(runs)["experiment"].tolist() == ["two"]


def test_of_one_setting_and_seeds_the_most_measured_run_counts_then_the_latest(runs_of, make_run):
    def run(value, day, **record):
        return make_run(value, record={"updated": f"2025-01-0{day}T00:00:00+00:00", **record})

    runs = runs_of(run(60.0, 2), run(50.0, 3), run({}, 4), run(40.0, 1, device="cuda:0"))
    assert len(runs) == 4
    assert distinct(runs)["perplexity: wiki, 64"].tolist() == [50.0, 40.0]
    assert runs["setting"].nunique() == 2  # a GPU rounds otherwise, and is faster


def test_the_users_own_run_wins_over_the_shipped_one(tmp_path, make_run):
    shipped = make_run(40.0, record={"experiment": "sweep", "host": "far", "device": "cuda"})
    others = make_run(30.0, record={"experiment": "sweep", "host": "far", "device": "cuda"}, beam=4)
    own = {**make_run(50.0, record={"host": "here"}), "run_id": shipped["run_id"]}
    for record in (shipped, others):
        put(tmp_path / "reference", record)
    put(tmp_path, own)
    runs = finished_runs(load_records(tmp_path))
    assert runs["perplexity: wiki, 64"].tolist() == [50.0, 30.0]
    assert runs["origin"].tolist() == ["", "reference: far, cuda, 2025-01-02"]
    alone = finished_runs(load_records(tmp_path, reference=False))
    assert alone["perplexity: wiki, 64"].tolist() == [50.0]
    put(tmp_path, {**own, "status": "failed"})
    runs = finished_runs(load_records(tmp_path))
    assert runs["perplexity: wiki, 64"].tolist() == [40.0, 30.0]


def test_revisions_are_not_mixed(runs_of, make_run, tmp_path):
    def run(value, method, experiment="default", **algorithm):
        about = {"experiment": experiment, "algorithm": algorithm}
        return make_run(value, method=method, record=about)

    records = [
        run(10.0, "crvq", crvq=1, solver=2),
        run(20.0, "crvq", "ranked", crvq=1, solver=1),
        run(30.0, "crvq"),  # from before records said so
        run(40.0, "aqlm", aqlm=1, solver=1),
        run(50.0, "rtn", rtn=1),
        run(60.0, "gptq"),
    ]
    for record in records:
        put(tmp_path, record)
    loaded = load_records(tmp_path)
    kept, older = finished_runs(loaded), older_revisions(loaded)
    assert sorted(kept["perplexity: wiki, 64"]) == [10.0, 50.0, 60.0]
    assert sorted(older["perplexity.wiki.quantized"]) == [20.0, 30.0, 40.0]
    (line,) = older_note(older)
    assert "3 runs of an older algorithm revision (default, ranked)" in line
    assert "Left out: 1 run" in older_note(older, ["ranked"])[0]
    assert older_note(older, ["other"]) == older_note(None) == []
    same = finished_runs(loaded[loaded["perplexity.wiki.quantized"].isin([20.0, 40.0])])
    assert len(same) == 2  # one revision alone is not mixed with another


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
    assert len({kept[run["run_id"]] for run in same}) == 1
    assert kept.nunique() == 1 + len(other)
    assert len(distinct(runs)) == 3 + len(other)  # three draws of seeds


def test_null_is_a_value_and_not_a_missing_key(runs_of, make_run):
    grids = [make_run(method="rtn", bits=2, group_size=size) for size in (None, 128)]
    runs = runs_of(*grids, make_run())
    assert runs["setting"].nunique() == 3
    assert '"config.method_params.group_size": null' in runs["setting"][0]


def test_a_method_from_elsewhere_is_no_error(runs_of, make_run):
    runs = runs_of(make_run(method="mine", knob=1), make_run(method="mine"))
    assert runs["setting"].nunique() == 2


def test_numbers_that_pandas_made_floats_are_still_equal(runs_of, make_run):
    """A column with gaps holds 8.0 where a full one holds 8."""
    both = runs_of(make_run(), make_run(method="rtn", bits=1.0))
    alone = runs_of(make_run())
    assert both["setting"][0] == alone["setting"][0]


def test_a_key_can_be_left_out(runs_of, make_run):
    runs = runs_of(make_run(reorder="sorted"), make_run(reorder="none"))
    first, second = runs["settings"]
    but = ("config.method_params.reorder",)
    assert setting_key(first) != setting_key(second)
    assert setting_key(first, but) == setting_key(second, but)


@pytest.mark.parametrize("records", [pd.DataFrame(), pd.DataFrame({"status": ["failed"]})])
def test_nothing_finished_is_an_empty_frame(records):
    assert finished_runs(records).empty


def test_one_command_on_two_devices_is_two_runs(runs_of, make_run):
    cpu = make_run(50.0, record={"device": "cpu"})
    gpu = make_run(40.0, record={"device": "cuda:0", "experiment": "other"})
    runs = runs_of(cpu, {**gpu, "run_id": cpu["run_id"]})
    assert runs["perplexity: wiki, 64"].tolist() == [50.0, 40.0]
    assert runs["experiment"].tolist() == ["default", "other"]
