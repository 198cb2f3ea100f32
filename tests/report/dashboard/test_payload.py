import json

import pytest

from crvq.report.dashboard.payload import dashboard_payload
from crvq.report.dashboard.runs import load_runs


@pytest.fixture(scope="module")
def payload(all_kinds):
    return dashboard_payload(load_runs(all_kinds), all_kinds)


def by_key(payload):
    return {run["key"]: run for run in payload["runs"]}


def test_json_can_say_all_of_it(payload):
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    hostile = by_key(payload)["trouble/hostile"]
    assert hostile["perplexity"][0]["quantized"] == "Infinity"


def test_every_run_is_there_whatever_became_of_it(payload):
    statuses = {key: run["status"] for key, run in by_key(payload).items()}
    assert len(statuses) == 11
    assert statuses["trouble/damaged"] == "damaged"
    assert statuses["trouble/running"] == "running"
    assert statuses["trouble/dead"] == "stopped"
    assert set(payload["experiments"]) == {"sweep", "trouble"}
    assert sorted(payload["experiments"]["sweep"]["axes"]) == [
        "method_params.critical_ratio",
        "method_params.reorder",
    ]


def test_a_failed_run_keeps_its_error_and_the_end_of_the_traceback(payload):
    error = by_key(payload)["trouble/failed"]["error"]
    assert error["message"] == "k_proj is not finite"
    assert error["traceback"][-1] == "line 39"
    assert 5 < len(error["traceback"]) < 40


def test_only_running_runs_have_progress(payload):
    runs = by_key(payload)
    assert {key for key, run in runs.items() if run["progress"]} == {
        "trouble/running",
        "trouble/dead",
    }
    assert runs["trouble/running"]["progress"]["alive"]
    assert not runs["trouble/dead"]["progress"]["alive"]


def test_sections_are_there_where_a_record_has_them(payload):
    runs = by_key(payload)
    assert set(runs["sweep/run0"]["zero_shot"]) == {"arc", "piqa"}
    assert set(runs["sweep/run0"]["agreement"]) == {"wiki"}
    assert runs["trouble/failed"]["zero_shot"] == runs["trouble/failed"]["agreement"] == {}
    assert len(runs["sweep/run0"]["finetune"]) == 3
    assert runs["sweep/run2"]["effective"] == {"critical_ratio": [0.01, 0.0075]}
    assert runs["sweep/run2"]["config"]["method_params.critical_ratio"] == "0.01"


def test_quality_is_what_quantization_did_and_which_way_is_better(payload):
    quality = payload["quality"]
    assert quality["perplexity of wiki, quantized"] is True
    assert quality["top-1 agreement on wiki"] is False
    shown = " ".join(quality)
    assert "full precision" not in shown.replace("ratio to full precision", "")
    assert not any(word in shown for word in ("memory", "seconds", "codes"))


def test_published_numbers_that_cannot_be_read_are_a_fault(every_kind):
    (every_kind / "published.csv").write_text("nonsense\n")
    payload = dashboard_payload(load_runs(every_kind), every_kind)
    assert payload["published"] == []
    assert "published.csv" in payload["faults"][0]
