import pytest

from crvq.files.atomic import write_json
from crvq.report.records import load_layers, load_records
from crvq.tracking.events import LayerRow
from crvq.tracking.json_values import to_json
from crvq.tracking.layers_csv import write_layers
from crvq.tracking.record_schema import RecordError


@pytest.fixture
def results(tmp_path, make_record):
    """Two experiments: one with a good, a failed and a damaged run, one with a single run."""
    runs = {
        "one/a": make_record("a", params={"critical_ratio": 0.01}),
        "one/b": make_record(
            "b", status="failed", error={"type": "X", "message": "y"}, perplexity={}
        ),
        "two/c": make_record(
            "c",
            perplexity={"wiki": {"quantized": float("inf"), "tokens": 1, "context": 1}},
        ),
    }
    for place, record in runs.items():
        write_json(tmp_path / place / "record.json", to_json(record))
        row = LayerRow(0, "q", "q", 2, 4, 0, 1.0, float("nan"), 1, 1.0, 2.0, {"codes": 16.0})
        write_layers(tmp_path / place / "layers.csv", [row, row])
    (tmp_path / "one" / "z").mkdir()
    (tmp_path / "one" / "z" / "record.json").write_text("{")
    return tmp_path


def test_a_row_a_run_whatever_became_of_it(results, caplog):
    table = load_records(results).set_index("run_id")
    assert table["status"].to_dict() == {
        "a": "complete",
        "b": "failed",
        "c": "complete",
        "z": "damaged",
    }
    assert table.loc["a", "config.method_params.critical_ratio"] == 0.01
    assert table.loc["a", "perplexity.wiki.quantized"] == 94.25
    assert table.loc["c", "perplexity.wiki.quantized"] == float("inf")
    assert table.loc["b", "error.message"] == "y"
    assert "cannot be read" in table.loc["z", "error.message"]
    assert table.loc["c", "folder"] == str(results / "two" / "c")
    assert len(caplog.records) == 1


def test_one_experiment(results):
    assert load_records(results, "two")["run_id"].tolist() == ["c"]
    assert load_layers(results, "two")["run_id"].tolist() == ["c", "c"]


def test_nothing_there(tmp_path):
    assert load_records(tmp_path).empty
    assert load_layers(tmp_path / "missing").empty


def test_layers_of_all_runs(results):
    table = load_layers(results)
    assert table[["experiment", "run_id"]].value_counts().to_dict() == {
        ("one", "a"): 2,
        ("one", "b"): 2,
        ("two", "c"): 2,
    }
    assert table["bits_codes"].tolist() == [16.0] * 6
    assert table["relative_loss"].isna().all()
    assert (table["notes"] == "").all()


def test_damaged_layers_are_an_error(results):
    (results / "two" / "c" / "layers.csv").write_text("")
    with pytest.raises(RecordError, match=r"layers\.csv"):
        load_layers(results)
