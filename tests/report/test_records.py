import pytest

from crvq.files.atomic import write_json
from crvq.report.records import default_tables, layer_table, load_layers, load_records
from crvq.tracking.csv_files import write_layers
from crvq.tracking.events import LayerRow
from crvq.tracking.json_values import to_json
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


def test_layers_are_told_by_the_folder_that_records_have(results):
    folders = set(load_records(results)["folder"]) - {str(results / "one" / "z")}
    assert set(load_layers(results)["folder"]) == folders


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"a,b\n1,2\n", b"half a li"], ids=repr)
def test_a_damaged_table_costs_no_other(results, caplog, damage):
    path = results / "two" / "c" / "layers.csv"
    path.write_bytes(damage)
    assert load_layers(results)["run_id"].tolist() == ["a", "a", "b", "b"]
    (warning,) = caplog.records
    assert str(path) in warning.getMessage()


def test_words_in_place_of_numbers_are_damage(results):
    path = results / "two" / "c" / "layers.csv"
    path.write_text(path.read_text().replace("\n0,", "\nmany,"))
    with pytest.raises(RecordError, match="many"):
        layer_table(path.parent)


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_run_that_failed_before_its_first_block_has_no_layers(results, caplog, text):
    (results / "one" / "b" / "layers.csv").write_text(text)
    assert layer_table(results / "one" / "b").empty
    assert load_layers(results)["run_id"].tolist() == ["a", "a", "c", "c"]
    assert not caplog.records


def test_damage_is_no_reason_to_delete_a_run(results):
    path = results / "two" / "c" / "layers.csv"
    path.write_bytes(b"half a li")
    with pytest.raises(RecordError) as caught:
        layer_table(path.parent)
    assert "Remove" not in str(caught.value)


def test_shipped_records_come_after_own_ones(results, make_record):
    record = make_record("s")
    write_json(results / "reference" / "two" / "s" / "record.json", to_json(record))
    table = load_records(results)
    assert table["run_id"].tolist() == ["a", "b", "z", "c", "s"]
    assert table["reference"].tolist() == [False] * 4 + [True]
    assert load_records(results, "two", reference=False)["run_id"].tolist() == ["c"]
    assert load_records(results / "reference")["reference"].tolist() == [True]


def test_an_experiment_is_a_name_and_not_a_pattern(results):
    assert load_records(results, "*").empty
    assert load_records(results, "t[w]o").empty


def test_tables_of_shipped_records_go_to_the_ignored_folder(tmp_path):
    assert default_tables(tmp_path) == tmp_path / "tables"
    assert default_tables(tmp_path / "reference") == tmp_path / "tables"
