"""Sweeps through the real command line."""

import pytest

from crvq.pipeline.run import RunOutcome
from crvq.tracking.record_schema import read_record
from tests.forked import run_py as run_forked


def records(tmp_path):
    return [read_record(path.parent) for path in tmp_path.glob("results/*/*/record.json")]


def test_a_sweep_leaves_a_record_a_job_and_a_table_and_does_only_what_is_missing(
    run_tiny, tmp_path
):
    first = run_tiny("-m", "crvq.critical_ratio=0.0,0.25")
    assert first.code == 0, first.err
    found = {r["config"]["method_params"]["critical_ratio"]: r for r in records(tmp_path)}
    assert found.keys() == {0.0, 0.25}
    assert all(record["status"] == "complete" for record in found.values())
    assert len({record["sweep"] for record in found.values()}) == 1
    assert "CRVQ 1x4 g4 " in first.out  # λ=0 is one codebook
    assert "λ=0.25" in first.out
    for record in found.values():
        assert f"{record['bits']['average_quantized_weights']:.4g}" in first.out

    second = run_tiny("-m", "crvq.critical_ratio=0.0,0.25,0.5")
    assert second.code == 0
    again = {r["config"]["method_params"]["critical_ratio"]: r for r in records(tmp_path)}
    assert again.keys() == {0.0, 0.25, 0.5}
    for ratio, record in found.items():
        assert again[ratio]["finished"] == record["finished"]
        assert again[ratio]["attempts"] == record["attempts"]
    assert "λ=0.25" in second.out
    assert "λ=0.5" in second.out


def test_jobs_that_come_out_identical_are_told(run_tiny):
    """At d=4 both ratios of 32 and 44 channels are one group."""
    outcome = run_tiny("-m", "crvq.critical_ratio=0.01,0.02", "eval=none")
    assert outcome.code == 0
    reply = " ".join(outcome.out.split())
    assert "gave the same quantized model, bit for bit" in reply
    assert "critical_ratio comes to" in reply


def test_a_sweep_whose_jobs_are_all_refused_leaves_no_trace(tiny_overrides, tmp_path):
    refused = run_forked([*tiny_overrides, "-m", "calibration.samples=99,98"], tmp_path)
    assert refused.wait() == 1
    assert "samples=98" in refused.said()
    assert not (tmp_path / "results").exists()


def test_a_failed_job_leaves_its_error_and_the_others_go_on(tiny_overrides, tmp_path):
    finished = run_forked([*tiny_overrides, "-m", "calibration.samples=99,4,2"], tmp_path)
    assert finished.wait() == 1
    found = {r["config"]["calibration"]["samples"]: r for r in records(tmp_path)}
    # What is refused leaves no record; the table has its error.
    assert {samples: r["status"] for samples, r in found.items()} == {
        4: "complete",
        2: "complete",
    }
    assert "set calibration.samples=15 or less" in " ".join(finished.said().split())
    # The table has all three, the failed one too.
    for samples in (99, 4, 2):
        assert f"samples={samples}" in finished.said()
    assert "failed" in finished.said()


def test_a_single_run_is_shown_next_to_another_where_that_is_asked_for(run_tiny, tmp_path):
    outcome = run_tiny("crvq.critical_ratio=0.25", "compare_with={critical_ratio: 0.0}")
    assert outcome.code == 0, outcome.err
    ratios = {r["config"]["method_params"]["critical_ratio"] for r in records(tmp_path)}
    assert ratios == {0.0, 0.25}
    for part in ("CRVQ 1x4 g4 ", "λ=0.25", "full precision", "record:", "next:"):
        assert part in outcome.out, part


def test_a_single_run_quantizes_once(run_tiny, tmp_path):
    outcome = run_tiny("crvq.critical_ratio=0.25")
    assert outcome.code == 0, outcome.err
    assert [r["config"]["method_params"]["critical_ratio"] for r in records(tmp_path)] == [0.25]


@pytest.mark.parametrize(("arguments", "ratios"), [([], [0.02, 0.0]), (["seed=1"], [0.02])])
def test_only_the_demo_without_arguments_compares(arguments, ratios, run_py, monkeypatch, tmp_path):
    ran = []

    def record(config, **_):
        ran.append(config.method_params.critical_ratio)
        return RunOutcome(tmp_path / str(len(ran)), reused=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crvq.cli.job.execute", record)
    monkeypatch.setattr("crvq.cli.job.placed_record", lambda *_: {})
    monkeypatch.setattr("crvq.cli.job.print_closing", lambda *_, **__: None)
    assert run_py(*arguments).code == 0
    assert ran == ratios


def test_help_and_config_printing_do_no_work(run_py, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run_py("--help")
    assert shown.code == 0
    for part in ("method", "calibration", "-m crvq.critical_ratio", "force=true"):
        assert part in shown.out
    composed = run_py("--cfg", "job")
    assert composed.code == 0
    assert "critical_ratio: 0.02" in composed.out
    assert not (tmp_path / "results").exists()
