import numpy as np
import pandas as pd
import pytest

from crvq.report.figures import critical_figure, loss_by_block_figure, loss_map_figure


@pytest.fixture
def layers():
    rows = [
        {
            "run_id": "same command",
            "folder": run,
            "block": block,
            "name": f"{block}.{kind}",
            "kind": kind,
            "out_features": 4,
            "in_features": size,
            "critical_channels": critical,
            "relative_loss": scale * (block + 1) * size / 100,
            "bits": 1.0,
        }
        for run, scale, critical in (("a", 1.0, 2), ("b", 2.0, 0))
        for block in (0, 1)
        for kind, size in (("q<", 8), ("down", 16))
    ]
    return pd.DataFrame(rows)


def test_the_map_has_every_linear_in_the_order_of_a_block(layers):
    figure = loss_map_figure(layers[layers["folder"] == "a"], "run a")
    (heatmap,) = figure.data
    assert list(heatmap.y) == ["q&lt;", "down"]
    assert list(heatmap.x) == [0, 1]
    assert np.allclose(10 ** np.array(heatmap.z), [[0.08, 0.16], [0.16, 0.32]])
    assert np.allclose(heatmap.customdata, [[0.08, 0.16], [0.16, 0.32]])


def test_a_loss_of_zero_leaves_a_gap(layers):
    layers.loc[0, "relative_loss"] = 0.0
    (heatmap,) = loss_map_figure(layers[layers["folder"] == "a"], "run a").data
    assert np.isnan(np.array(heatmap.z, dtype=float)).sum() == 1


def test_a_line_a_run(layers):
    figure = loss_by_block_figure(layers, {"b": "<b>", "a": "A", "absent": "x"})
    assert [line.name for line in figure.data] == ["&lt;b&gt;", "A"]
    assert np.allclose(figure.data[1].y, [0.12, 0.24])


def test_ruins_do_not_flatten_the_other_lines(layers):
    assert loss_by_block_figure(layers, {"a": "A"}).layout.yaxis.type == "log"


def test_what_part_of_the_channels_is_critical(layers):
    (bars,) = critical_figure(layers[layers["folder"] == "a"], "A").data
    assert np.allclose(bars.y, [25.0, 12.5])
    assert list(bars.text) == ["2 of 8", "2 of 16"]


def test_nothing_to_show_says_so(layers):
    empty = pd.DataFrame()
    figures = [
        loss_map_figure(empty, ""),
        loss_by_block_figure(empty, {"a": "A"}),
        loss_by_block_figure(layers, {}),
        critical_figure(empty, ""),
        critical_figure(layers[layers["folder"] == "b"], ""),
    ]
    for figure in figures:
        assert figure.layout.annotations[0].text
