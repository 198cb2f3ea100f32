import sys
import threading
import time
from types import SimpleNamespace

import pytest

from crvq.config import TrackingConfig
from crvq.errors import ConfigError
from crvq.tracking.mirror import Mirror, check_tracking
from tests.tracking.mirror_examples import RECORD, warned


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
    monkeypatch.setattr("crvq.tracking.wandb_run.wandb", module)
    monkeypatch.setattr(Mirror, "_left_behind", None)
    return module


def _whole_run(mirror, row):
    begin = time.monotonic()
    mirror.block_quantized(0, [row], 1.0)
    mirror.finished(RECORD)
    return time.monotonic() - begin


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


def test_a_package_that_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'crvq\[trackio\]'"):
        check_tracking(TrackingConfig(backend="trackio"))
    check_tracking(TrackingConfig(backend="trackio", mode="disabled"))
    monkeypatch.undo()
    check_tracking(TrackingConfig(backend="wandb"))
    with pytest.raises(ConfigError, match="Did you mean 'wandb'"):
        check_tracking(TrackingConfig(backend="wandbb", mode="disabled"))


def test_a_module_that_cannot_be_imported_is_one_warning(mirror, make_row, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "crvq.tracking.wandb_run", None)  # makes the import fail
    _whole_run(mirror(), make_row())
    (warning,) = warned(caplog)
    assert "W&B is left out" in warning.message


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
    Mirror._left_behind._thread.join(5)
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
    Mirror._left_behind._thread.join(5)
    assert [options["mode"] for options in fake.of("init")] == ["online"]
