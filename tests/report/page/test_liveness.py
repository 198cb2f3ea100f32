import os
import socket
from datetime import UTC, datetime, timedelta

import pytest

from crvq.report.liveness import progress, shown_status

from .conftest import layer

BEGAN = datetime.now(UTC)  # this process is the attempt's, so it is older
NOW = BEGAN + timedelta(hours=1)


def running(load, host=None, pid=None, began=BEGAN, **changes):
    attempt = {
        "started": began.isoformat(),
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


def test_a_number_that_went_to_a_younger_process(load):
    runs = running(load, began=BEGAN - timedelta(days=1))
    assert progress(runs[0], runs, NOW)["alive"] is False


def test_a_run_that_nobody_works_on_is_shown_as_stopped(load):
    dead, live = running(load, pid=2**22 + 1), running(load)
    complete = load(b__1={})[-1]
    assert [shown_status(runs[0], runs) for runs in (dead, live)] == ["stopped", "running"]
    assert shown_status(complete, [complete]) == "complete"


@pytest.mark.parametrize(("minutes", "alive"), [(59, True), (61, False)])
def test_on_another_host_silence_tells(load, minutes, alive):
    runs = running(load, host="elsewhere", pid=2**22 + 1)
    changed = max(path.stat().st_mtime for path in runs[0].folder.iterdir())
    now = datetime.fromtimestamp(changed, UTC) + timedelta(minutes=minutes)
    found = progress(runs[0], runs, now)
    assert found["alive"] is alive
    assert found["silent"] == pytest.approx(60 * minutes, abs=1)
