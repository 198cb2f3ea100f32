import json
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from crvq.config import TrackingConfig
from crvq.tracking.layers_csv import write_layers
from crvq.tracking.wandb_mirror import WandbMirror

CONFIG = {"method": "crvq", "method_params": {"critical_ratio": 0.02}}
RECORD = {
    "status": "complete",
    "perplexity": {"wiki": {"full_precision": 21.5, "quantized": float("inf"), "tokens": 64}},
    "bits": {"average_quantized_weights": 2.125},
    "seconds": {"quantize": 3.0},
}


def warned(caplog):
    """Warnings and worse: other tests may have left the root logger at a lower level."""
    return [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


class FakeWandb:
    """Stands in for the module and for its run; each call can be replaced."""

    def __init__(self):
        self.calls = []
        self.summary = SimpleNamespace(update=lambda values: self.calls.append(("summary", values)))
        self.Settings = SimpleNamespace
        self.Table = SimpleNamespace

    def setup(self, settings):
        pass

    def init(self, **options):
        self.calls.append(("init", options))
        return self

    def log(self, values, step=None):
        self.calls.append(("log", values))

    def finish(self, exit_code):
        self.calls.append(("finish", exit_code))

    def of(self, kind):
        return [value for name, value in self.calls if name == kind]


@pytest.fixture
def fake(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(WandbMirror, "_left_behind", None)
    return module


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    def make(mode="offline", timeout=10.0, sweep="s1", **tracking):
        config = TrackingConfig(mode=mode, timeout_seconds=timeout, **tracking)
        return WandbMirror(config, tmp_path, "tiny-crvq-abc", CONFIG, sweep=sweep)

    return make


def _whole_run(mirror, row):
    begin = time.monotonic()
    mirror.block_quantized(0, [row], 1.0)
    mirror.finished(RECORD)
    return time.monotonic() - begin


def _read_offline_run(folder):
    """Records of a .wandb file: LevelDB's log format around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


def _finished_offline_run(folder):
    """All records, once the one that closes the run is there; W&B's service writes on its own."""
    for _ in range(100):
        records = list(_read_offline_run(folder))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    pytest.fail("the run was never finished")


def _items(update):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


def test_an_offline_run_can_be_read_back(mirror, tmp_path, make_row, monkeypatch, caplog, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")  # the configuration decides
    rows = [make_row(0, relative_loss=0.01), make_row(0, "mlp", relative_loss=0.03)]
    write_layers(tmp_path / "layers.csv", rows)
    whole = mirror(tags=("t",))
    whole.block_quantized(0, rows, 1.5)
    whole._calls.submit(lambda: sys.stdout.write("spoken\n"))  # once W&B is connected
    whole.finished(RECORD)
    assert warned(caplog) == []
    assert capfd.readouterr() == ("spoken\n", "")

    records = _finished_offline_run(tmp_path)
    assert not any(record.HasField("output_raw") for record in records)  # no copy of the terminal
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.run_group, run.job_type) == ("tiny-crvq-abc", "s1", "quantize")
    assert list(run.tags) == ["t"]
    assert _items(run.config.update).items() >= CONFIG.items()
    history = [_items(record.history.item) for record in records if record.HasField("history")]
    block = next(row for row in history if "block" in row)
    assert block["relative_loss/mean"] == pytest.approx(0.02)
    assert (block["relative_loss/max"], block["seconds/block"]) == (0.03, 1.5)
    assert block["_step"] == 0
    assert any("layers" in row or "layers/_type" in row for row in history)
    summary = {}
    for record in records:
        summary |= _items(record.summary.update)
    assert summary["perplexity/wiki/full_precision"] == 21.5
    assert summary["perplexity/wiki/quantized"] == "Infinity"
    assert summary["bits/average_quantized_weights"] == 2.125
    assert summary["status"] == "complete"


def test_attempts_offline_get_ids_of_their_own(mirror, fake, tmp_path):
    mirror().close()
    (tmp_path / "wandb" / "offline-run-20250101_000000-tiny-crvq-abc").mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").mkdir()
    mirror().close()
    ids = [options["id"] for options in fake.of("init")]
    assert ids == ["tiny-crvq-abc", "tiny-crvq-abc-2"]
    assert {options["name"] for options in fake.of("init")} == {"tiny-crvq-abc"}
    assert {options["group"] for options in fake.of("init")} == {"s1"}


def test_online_keeps_its_id_and_the_group_can_be_chosen(mirror, fake):
    mirror("online", group="mine").close()
    (options,) = fake.of("init")
    assert (options["mode"], options["id"]) == ("online", "tiny-crvq-abc")
    assert (options["resume"], options["group"]) == ("allow", "mine")


def test_online_without_a_login_goes_on_offline(mirror, fake, make_row, caplog):
    def init(**options):
        if options["mode"] == "online":
            raise ConnectionError("no API\nkey")
        return FakeWandb.init(fake, **options)

    fake.init = init
    _whole_run(mirror("online"), make_row())
    assert [options["mode"] for options in fake.of("init")] == ["offline"]
    assert len(fake.of("log")) == 1
    (warning,) = warned(caplog)
    assert "no API key" in warning.message


def test_disabled_does_nothing(mirror, fake, make_row):
    _whole_run(mirror("disabled"), make_row())
    assert fake.calls == []


def test_a_missing_module_is_one_warning(mirror, make_row, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes the import fail
    _whole_run(mirror(), make_row())
    (warning,) = warned(caplog)
    assert warning.levelno == logging.WARNING
    assert "wandb" in warning.message


def test_a_hanging_init_costs_the_timeout_once(mirror, fake, make_row, caplog):
    release = threading.Event()
    fake.init = lambda **options: release.wait(10) and FakeWandb.init(fake, **options)
    try:
        assert _whole_run(mirror(timeout=0.4), make_row()) < 2
        assert "0.4 s" in caplog.text
        # The next job of a multirun, while that one still hangs, does not even try.
        caplog.clear()
        assert _whole_run(mirror(timeout=0.4), make_row()) < 0.2
        (warning,) = warned(caplog)
        assert "earlier" in warning.message
    finally:
        release.set()
    WandbMirror._left_behind._thread.join(5)
    assert fake.of("log") == []
    assert fake.of("finish") == [0]  # what came back late is closed, not mixed into another run


def test_a_raising_call_is_one_warning_and_the_run_is_closed(mirror, fake, make_row, caplog):
    def log(values, step=None):
        raise OSError("disk full")

    fake.log = log
    with mirror() as broken:
        for block in range(3):
            broken.block_quantized(block, [make_row(block)], 1.0)
        broken.finished(RECORD)
    (warning,) = warned(caplog)
    assert "disk full" in warning.message
    assert fake.of("finish") == [0]


@pytest.mark.parametrize(("status", "code"), [("complete", 0), ("failed", 1)])
def test_exit_code_tells_failure(mirror, fake, status, code):
    mirror().finished({**RECORD, "status": status})
    assert fake.of("finish") == [code]


def test_a_run_that_raises_is_closed_once_and_as_failed(mirror, fake):
    with pytest.raises(ZeroDivisionError), mirror():
        _ = 1 / 0
    assert fake.of("finish") == [1]
    with mirror() as whole:
        whole.finished(RECORD)
    assert fake.of("finish") == [1, 0]


def test_a_late_failure_to_connect_is_not_tried_again(mirror, fake, make_row):
    release = threading.Event()

    def init(**options):
        fake.calls.append(("init", options))
        release.wait(10)
        raise ConnectionError

    fake.init = init
    _whole_run(mirror("online", timeout=0.2), make_row())
    release.set()
    WandbMirror._left_behind._thread.join(5)
    assert [options["mode"] for options in fake.of("init")] == ["online"]


def test_an_unreachable_server_costs_little_and_the_real_module_stays_silent(tmp_path):
    """A process of its own: W&B keeps its login and its service for a process's lifetime."""
    program = """
import sys
from pathlib import Path
from crvq.config import TrackingConfig
from crvq.tracking.wandb_mirror import WandbMirror
tracking = TrackingConfig(mode="online", timeout_seconds=4)
WandbMirror(tracking, Path(sys.argv[1]), "r1", {}).finished({"status": "complete"})
"""
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert answer.stdout == ""
    (warning,) = answer.stderr.splitlines()
    assert "mirrored offline" in warning
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
