import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.report.dashboard.layer_maps import layer_maps


def frame(cells, measure="bits"):
    return pd.DataFrame(
        [{"block": block, "kind": kind, measure: value} for (block, kind), value in cells.items()]
    )


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 40), st.sampled_from("qkvo")),
        st.floats(1e-6, 1e6),
        min_size=1,
    )
)
def test_every_value_lies_at_its_block_and_kind(cells):
    found = layer_maps(frame(cells))
    assert found["blocks"] == sorted({block for block, _ in cells})
    seen = {
        (block, kind): value
        for kind, line in zip(found["kinds"], found["maps"]["bits"], strict=True)
        for block, value in zip(found["blocks"], line, strict=True)
        if value is not None
    }
    assert seen.keys() == cells.keys()
    assert all(abs(seen[cell] - cells[cell]) <= 1e-4 * cells[cell] for cell in cells)


def test_not_finite_is_a_hole():
    cells = {(0, "q"): float("nan"), (1, "q"): float("inf"), (2, "q"): 1.0}
    assert layer_maps(frame(cells))["maps"]["bits"] == [[None, None, 1.0]]


def test_columns_that_are_absent_or_empty_make_no_map():
    found = layer_maps(frame({(0, "q"): float("nan")}, "code_entropy"))
    assert found["maps"] == {}
    assert layer_maps(pd.DataFrame()) is None
    assert layer_maps(pd.DataFrame({"block": [1]})) is None


def test_shapes_and_notes():
    table = frame({(0, "q"): 1.0, (1, "q"): 1.0}).assign(
        out_features=3, in_features=5, notes=["", "padded"]
    )
    found = layer_maps(table)
    assert found["shapes"] == {"q": "3 x 5"}
    assert found["notes"] == [[1, "q", "padded"]]
