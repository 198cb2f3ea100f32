import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crvq.tracking.csv_files import read_layers, write_layers
from crvq.tracking.events import LayerRow
from crvq.tracking.record_schema import RecordError

FLOATS = st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
ROWS = st.builds(
    LayerRow,
    bit_parts=st.fixed_dictionaries(
        dict.fromkeys(("codes", "codebooks", "scales", "permutation", "other"), FLOATS),
        optional={"centres": FLOATS},
    ),
    **dict.fromkeys(("name", "kind", "notes"), TEXT),
    critical_in_features=st.lists(st.integers(0, 10**5)).map(lambda ids: " ".join(map(str, ids))),
    **dict.fromkeys(("loss", "relative_loss", "seconds", "bits"), FLOATS),
    **dict.fromkeys(("code_entropy", "published_bits"), st.none() | FLOATS),
)


@given(st.lists(ROWS, max_size=3))
def test_rows_read_back_equal(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("layers") / "layers.csv"
    write_layers(path, rows)
    extra = any("centres" in row.bit_parts for row in rows)
    expected = [{"centres": 0.0, **row.bit_parts} if extra else row.bit_parts for row in rows]
    back = read_layers(path)
    assert [row.bit_parts for row in back] == expected
    assert [{**vars(row), "bit_parts": 0} for row in back] == [
        {**vars(row), "bit_parts": 0} for row in rows
    ]


def test_pandas_sees_flat_columns(tmp_path, make_row):
    write_layers(tmp_path / "layers.csv", [make_row(notes="padded, by 3"), make_row(kind="mlp")])
    table = pd.read_csv(tmp_path / "layers.csv")
    assert table["bits_codes"].tolist() == [192.0, 192.0]
    assert table["bits_other"].tolist() == [0.0, 0.0]
    assert table.columns[-1] == "notes"
    assert table["notes"][0] == "padded, by 3"


def test_tables_from_before_there_were_numbers_of_channels_are_read(tmp_path, make_row):
    path = tmp_path / "layers.csv"
    write_layers(path, [make_row(critical_in_features="3 1")])
    table = pd.read_csv(path).drop(columns="critical_in_features")
    table.to_csv(path, index=False)
    assert [row.critical_in_features for row in read_layers(path)] == [""]


@pytest.mark.parametrize("broken", ["loss", "8"], ids=["column missing", "not a number"])
def test_damage_is_one_clear_error(tmp_path, make_row, broken):
    path = tmp_path / "layers.csv"
    write_layers(path, [make_row()])
    path.write_text(path.read_text().replace(broken, "x", 1))
    with pytest.raises(RecordError, match=r"layers\.csv is damaged"):
        read_layers(path)
