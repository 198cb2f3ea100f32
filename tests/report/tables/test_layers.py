import pandas as pd
import pytest

from crvq.report.tables import best_runs, layers_table
from crvq.report.tables.layers import loss_by_kind


def layer(run, block, kind, loss, bits=1.0, out=4, in_=8, critical=2):
    return {
        "run_id": "same command",
        "folder": run,
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
            layer("b", 0, "q", 100.0),  # the same command on another device
        ]
    )
    table = loss_by_kind(layers)
    table = table[table["folder"] == "a"].set_index("kind")
    assert table.loc["q", "relative_loss"] == 0.5
    assert table.loc["q", "worst"] == 0.75
    assert table.loc["q", "bits"] == pytest.approx((1.0 * 4 + 2.0 * 12) / 16)
    assert table.loc["up", "bits"] == 1.0


def test_the_best_run_of_each_layout_by_bits(runs_of, make_run):
    worse, best = make_run(60.0, reorder="none"), make_run(50.0)
    other = make_run(20.0, bits=2.0, group_size=4)
    names = best_runs(runs_of(other, worse, best))
    assert list(names) == [best["run_id"], other["run_id"]]
    assert names[other["run_id"]] == "CRVQ 1x8 g4 + 3x8"


def test_the_best_layouts_and_not_the_smallest(runs_of, make_run):
    degenerate, best = make_run(9e9, bits=1.0), make_run(20.0, bits=2.0, group_size=4)
    assert list(best_runs(runs_of(degenerate, best), most=1)) == [best["run_id"]]


def test_a_sweep_of_the_critical_ratio_is_one_layout(runs_of, make_run):
    small, large = make_run(60.0, critical_ratio=0.01), make_run(50.0, critical_ratio=0.16)
    none = make_run(70.0, bits=1.0, critical_ratio=0.0)
    assert list(best_runs(runs_of(small, large, none))) == [none["run_id"], large["run_id"]]


def test_models_are_compared_by_what_they_lose(runs_of, make_run):
    ours = make_run(50.0, model="small")
    full = {"wiki": {"full_precision": 1.0, "quantized": 20.0, "tokens": 640, "context": 64}}
    other = make_run(model="large", record={})
    other["perplexity"] = full
    assert best_runs(runs_of(ours, other), most=1) == {
        ours["run_id"]: "CRVQ-paper",
    }
    assert "small: CRVQ-paper" in best_runs(runs_of(ours, other)).values()


def test_names_say_how_runs_were_tuned(runs_of, make_run):
    tuned = make_run(50.0, config={"finetune": {"block": {"epochs": 2}}})
    (name,) = best_runs(runs_of(tuned)).values()
    assert name == "CRVQ-paper · fine-tuned: block"


def test_rows_in_the_order_of_the_runs():
    layers = pd.DataFrame([layer("a", 0, "q", 0.1), layer("b", 0, "q", 0.2), layer("c", 0, "q", 1)])
    table = layers_table(layers, {"b": "B", "a": "A"})
    assert table.frame["label"].tolist() == ["B", "A"]


def test_nothing(runs_of, make_run):
    assert best_runs(runs_of()) == {}
    assert best_runs(runs_of(make_run({}))) == {}
    assert layers_table(pd.DataFrame(), {}).frame.empty
