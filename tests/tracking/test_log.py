import logging
import time

import pytest

from crvq.tracking.log import PROGRESS_LOGGER, RunLog


@pytest.fixture
def text(tmp_path):
    return lambda: (tmp_path / "run.log").read_text()


def test_takes_log_records_only_while_entered(tmp_path, text):
    log = logging.getLogger("crvq.some.module")
    level = logging.getLogger("crvq").level
    with RunLog(tmp_path):
        log.info("inside")
        log.debug("detail")
        logging.getLogger("other").warning("foreign")
    log.warning("outside")
    assert "INFO crvq.some.module: inside" in text()
    assert "WARNING other: foreign" in text()
    assert "detail" not in text()
    assert "outside" not in text()
    assert logging.getLogger("crvq").level == level


def test_listener_lines_are_written_once(tmp_path, text, make_row):
    with RunLog(tmp_path) as log:
        log.block_quantized(3, [make_row(3, notes="padded by 4")], 2.5)
        log.message("a message")
        log.stage_finished("load", 1.25)
        logging.getLogger(PROGRESS_LOGGER).warning("block 3 again")
    assert text().count("block 3") == 1
    assert "model.layers.3.attn.q_proj: relative loss 0.025, 2.000 bits; padded by 4" in text()
    assert "a message" in text()
    assert "load: 1.2 s" in text()


def test_an_error_is_logged_with_its_traceback(tmp_path, text):
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path):
        _ = 1 / 0
    assert "ERROR" in text()
    assert "_ = 1 / 0" in text()


def test_times_are_utc(tmp_path, text, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before = time.strftime("%Y-%m-%dT%H:", time.gmtime())
        with RunLog(tmp_path) as log:
            log.message("now")
        after = time.strftime("%Y-%m-%dT%H:", time.gmtime())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert text().startswith((before, after))


def test_a_second_attempt_appends(tmp_path, text):
    for attempt in ("first", "second"):
        with RunLog(tmp_path) as log:
            log.message(attempt)
    assert [line.split()[-1] for line in text().splitlines()] == ["first", "second"]
