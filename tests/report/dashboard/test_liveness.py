import os
import socket
from datetime import UTC, datetime, timedelta

import pytest

from crvq.report.dashboard.liveness import progress

from .conftest import layer

NOW = datetime(2025, 1, 2, 4, 4, 5, tzinfo=UTC)


def running(load, host=None, pid=None, **changes):
    attempt = {
        "started": "2025-01-02T03:04:05+00:00",
        "host": host or socket.gethostname(),
        "pid": os.getpid() if pid is None else pid,
    }
    rows = [layer(block, kind) for block in range(2) for kind in "qk"]
    return load(a__1={"status": "running", "attempts": [attempt], "rows": rows, **changes})


def test_blocks_and_time(load):
    runs = running(load, stage={"name": "quantize", "total": 30})
    found = progress(runs[0], runs, NOW)
    assert (found["blocks_done"], found["blocks"], found["stage"]) == (2, 30, "quantize")
    assert found["elapsed"] == 3600
    assert found["alive"] is True


def test_the_number_of_blocks_is_known_from_finished_runs_of_the_model(load):
    runs = running(load, stage={"name": "perplexity", "total": 8})
    assert progress(runs[0], runs, NOW)["blocks"] is None
    runs += load(b__1={"rows": [layer(block) for block in range(5)]})
    assert progress(runs[0], runs, NOW)["blocks"] == 5
    runs[-1].record["model"] = "another"
    assert progress(runs[0], runs, NOW)["blocks"] is None


def test_a_process_that_is_gone(load):
    runs = running(load, pid=2**22 + 1)  # beyond any process id
    assert progress(runs[0], runs)["alive"] is False


@pytest.mark.parametrize(("minutes", "alive"), [(59, True), (61, False)])
def test_on_another_host_silence_tells(load, minutes, alive):
    runs = running(load, host="elsewhere", pid=2**22 + 1)
    changed = max(path.stat().st_mtime for path in runs[0].folder.iterdir())
    now = datetime.fromtimestamp(changed, UTC) + timedelta(minutes=minutes)
    found = progress(runs[0], runs, now)
    assert found["alive"] is alive
    assert found["silent"] == pytest.approx(60 * minutes, abs=1)
