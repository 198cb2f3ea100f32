"""What trackio makes of a run, read back from its database."""

import json
import os
import socketserver
import sqlite3
import threading

import pytest

from crvq.report.where_next import where_next
from crvq.tracking.record_schema import read_record
from tests.conftest import ROOT

RUN_PY = f"""
import runpy, sys, warnings
warnings.simplefilter("default", UserWarning)
runpy.run_path({str(ROOT / "run.py")!r}, run_name="__main__")
"""


@pytest.fixture
def listener():
    """A server's address, and what was asked of it."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture
def tiny_run(tiny_overrides, tmp_path, listener, fresh):
    """A run in a process of its own (trackio reads its folder once), tempted to call elsewhere."""
    arguments = [*tiny_overrides, "tracking=trackio", "tracking.group=g", "compare_with=null"]
    address, asked = listener
    tempted = {
        "TRACKIO_SERVER_URL": f"{address}?write_token=t",
        "HF_TOKEN": "hf_none",
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HTTPS_PROXY": address,
        "HTTP_PROXY": address,
        "NO_PROXY": "",
    }
    kept = {name: value for name, value in os.environ.items() if name != "TRACKIO_DIR"}
    finished = fresh.run(
        RUN_PY,
        *[one for one in arguments if one != "tracking=disabled"],
        environment={**kept, **tempted, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    assert asked == []
    (path,) = tmp_path.glob("results/*/*/record.json")
    return finished, read_record(path)


def database(results):
    """Configurations, history and tables of linears, by run name."""
    connection = sqlite3.connect(f"file:{results / '.trackio' / 'crvq.db'}?mode=ro", uri=True)
    configs = dict(connection.execute("select run_name, config from configs"))
    rows = connection.execute("select run_name, step, metrics from metrics order by step, id")
    history = [(name, step, json.loads(metrics)) for name, step, metrics in rows]
    connection.close()
    return {name: json.loads(config) for name, config in configs.items()}, history


def test_a_run_can_be_read_back_and_nothing_was_asked_or_printed(tiny_run, tmp_path, monkeypatch):
    finished, record = tiny_run
    reply = finished.stdout + finished.stderr
    assert "rackio project" not in reply
    assert "warning" not in reply.lower()
    assert "left out" not in reply

    configs, history = database(tmp_path / "results")
    config = configs[record["run_id"]]
    assert config["_Group"] == "g"
    assert config["_Username"] is None
    assert config["method_params"] == record["config"]["method_params"]
    assert {name for name, _, _ in history} == {record["run_id"]}
    blocks = [(step, row) for _, step, row in history if "bits/block" in row]
    assert [step for step, _ in blocks] == [0, 1, 2]
    assert all("block" not in row for _, row in blocks)
    ((step, results),) = [(step, row) for _, step, row in history if "seconds/quantize" in row]
    assert step == 3
    measured = record["perplexity"]["file"]
    assert results["perplexity/file/quantized"] == measured["quantized"]
    assert results["perplexity/file/full_precision"] == measured["full_precision"]
    assert results["bits/average_quantized_weights"] == record["bits"]["average_quantized_weights"]
    ((_, tables),) = [(step, row["layers"]) for _, step, row in history if "layers" in row]
    assert len(tables["_value"]) == 3 * 7
    assert tables["_value"][0]["kind"] == "self_attn.q_proj"

    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    shown = f"TRACKIO_DIR={tmp_path / 'results' / '.trackio'} trackio show --project crvq"
    assert shown in "\n".join(where_next(record))
