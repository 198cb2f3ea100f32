"""One process per run: locks, their holders, and hosts that do not share them."""

import json
import os
import subprocess
import sys
import time

import pytest

from crvq.files.run_lock import Holder, LockedError, RunLock


def test_who_holds_a_lock_is_said(tmp_path):
    path = tmp_path / "run.lock"
    with RunLock(path), pytest.raises(LockedError, match=f"process {os.getpid()} on "):
        RunLock(path, wait=False).__enter__()
    with RunLock(path, wait=False) as again:
        assert not again.waited


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "run.lock"
    program = (
        "import sys, time; from pathlib import Path; from crvq.files.run_lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} on"):
            RunLock(path, wait=False).__enter__()
        process.kill()
        process.wait()
    with RunLock(path, wait=False) as lock:
        assert lock.holder().pid == os.getpid()


def test_a_lock_of_another_host_counts_while_its_heart_beats(tmp_path, monkeypatch):
    """File systems that do not lock across hosts: the heartbeat decides, not the clock."""
    monkeypatch.setattr("crvq.files.run_lock.STALE_SECONDS", 1.0)
    monkeypatch.setattr("crvq.files.run_lock._POLL_SECONDS", 0.05)
    path = tmp_path / "run.lock"
    holder = {"host": "elsewhere", "pid": 1, "started": "2126-01-01T00:00:00", "beat": 3}
    path.with_name("run.lock.json").write_text(json.dumps(holder))
    begun = time.monotonic()
    with RunLock(path, wait=False):  # it stands still
        assert time.monotonic() - begun >= 1.0
    beats = iter([{**holder, "beat": beat} for beat in range(3, 100)])
    monkeypatch.setattr(RunLock, "holder", lambda self: Holder(**next(beats)))
    with pytest.raises(LockedError, match="process 1 on elsewhere"):
        RunLock(path, wait=False).__enter__()
