import pandas as pd
import pytest

from crvq.report.tables import best_runs, layers_table
from crvq.report.tables.layers import loss_by_kind


def layer(run, block, kind, loss, bits=1.0, out=4, in_=8, critical=2):
    return {
        "run_id": run,
        "block": block,
        "name": f"{block}.{kind}",
        "kind": kind,
        "out_features": out,
        "in_features": in_,
        "critical_channels": critical,
        "relative_loss": loss,
        "bits": bits,
    }


def test_by_kind_over_blocks():
    layers = pd.DataFrame(
        [
            layer("a", 0, "q", 0.25, bits=1.0, out=4),
            layer("a", 1, "q", 0.75, bits=2.0, out=12),
            layer("a", 0, "up", 0.5),
            layer("a", 0, "up", 0.5),  # the same run in another experiment
        ]
    )
    table = loss_by_kind(layers).set_index("kind")
    assert table.loc["q", "relative_loss"] == 0.5
    assert table.loc["q", "worst"] == 0.75
    assert table.loc["q", "bits"] == pytest.approx((1.0 * 4 + 2.0 * 12) / 16)
    assert table.loc["up", "bits"] == 1.0


def test_the_best_run_of_each_layout(runs_of, make_run):
    worse, best = make_run(60.0, reorder="none"), make_run(50.0)
    other = make_run(20.0, bits=2.0, group_size=4)
    names = best_runs(runs_of(worse, other, best))
    assert list(names) == [best["run_id"], other["run_id"]]
    assert names[other["run_id"]] == "CRVQ 1x8 g4 + 3x8, λ=0.02"
    assert list(best_runs(runs_of(worse, other, best), most=1)) == [best["run_id"]]


def test_rows_in_the_order_of_the_runs():
    layers = pd.DataFrame([layer("a", 0, "q", 0.1), layer("b", 0, "q", 0.2), layer("c", 0, "q", 1)])
    table = layers_table(layers, {"b": "B", "a": "A"})
    assert table.frame["label"].tolist() == ["B", "A"]


def test_nothing(runs_of, make_run):
    assert best_runs(runs_of()) == {}
    assert best_runs(runs_of(make_run({}))) == {}
    assert layers_table(pd.DataFrame(), {}).frame.empty
