import pandas as pd
import pytest

from crvq.report.figures import critical_map_figure
from crvq.report.figures.critical_map import recurring_channels

LISTED = {"q<": ["3 1", "1 2", "1 7", "0 7"], "down": ["15 4", "4 3", "2 1", "5 6"]}


@pytest.fixture
def layers():
    rows = [
        {
            "block": block,
            "kind": kind,
            "in_features": 8 if kind == "q<" else 16,
            "critical_channels": 2,
            "critical_in_features": listed[block],
        }
        for block in range(4)
        for kind, listed in LISTED.items()
    ]
    return pd.DataFrame(rows)


def test_every_critical_channel_is_a_dot_in_the_panel_of_its_kind(layers):
    figure = critical_map_figure(layers, "a run")
    q, down = figure.data
    assert list(zip(q.y, q.x, strict=True)) == [
        (0, 3), (0, 1), (1, 1), (1, 2), (2, 1), (2, 7), (3, 0), (3, 7),
    ]  # fmt: skip
    assert list(q.customdata) == [1, 2] * 4
    assert len(down.x) == 8
    assert figure.layout.xaxis2.range[1] > 15


def test_channels_that_come_again_are_named(layers):
    assert recurring_channels(layers[layers["kind"] == "q<"]) == [1, 7]
    heads = [note.text for note in critical_map_figure(layers, "").layout.annotations]
    assert heads[0] == "q&lt;: 2 critical in at least half of the blocks (1, 7)"
    assert heads[1] == "down: 1 critical in at least half of the blocks (4)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(index=table.index), "no critical channels"),
        (lambda table: table.assign(critical_channels=0), "no critical channels"),
        (lambda table: table.drop(columns="critical_in_features"), "from before"),
        (lambda table: table.assign(critical_in_features=""), "from before"),
    ],
)
def test_nothing_to_show_says_why(layers, change, said):
    assert said in critical_map_figure(change(layers), "").layout.annotations[0].text
