import logging
import subprocess
import sys
import threading
import time

import pytest

from crvq.tracking.background_calls import BackgroundCalls


@pytest.fixture
def release():
    """Lets hanging calls end, at the latest when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def nothing():
    pass


def test_calls_are_made_in_order_elsewhere():
    made = []
    calls = BackgroundCalls("it")
    for number in range(20):
        calls.submit(lambda number=number: made.append((number, threading.get_ident())))
    assert calls.close(5.0, lambda: made.append(("last", 0)))
    assert [number for number, _ in made] == [*range(20), "last"]
    assert threading.get_ident() not in {thread for _, thread in made}


def test_the_first_error_ends_it_with_one_warning(caplog):
    made = []
    calls = BackgroundCalls("W&B")
    calls.submit(lambda: 1 / 0)
    calls.submit(lambda: 1 / 0)
    calls.submit(lambda: made.append("dropped"))
    assert calls.close(5.0, lambda: made.append("last"))
    assert made == ["last"]  # what is held is let go all the same
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "W&B" in warning.message
    assert "division by zero" in warning.message


def test_a_call_that_would_end_the_process_is_an_error_like_any_other(caplog):
    made = []
    calls = BackgroundCalls("W&B")
    calls.submit(lambda: sys.exit("not logged in"))
    assert calls.close(5.0, lambda: made.append("last"))
    assert made == ["last"]
    assert "not logged in" in caplog.text


def test_a_hanging_call_is_left_behind(caplog, release):
    calls = BackgroundCalls("W&B")
    calls.submit(nothing)
    calls.submit(lambda: release.wait(10) and None)
    begin = time.monotonic()
    assert not calls.close(0.3, nothing)
    assert time.monotonic() - begin < 2
    assert calls.busy
    assert calls.given_up
    assert "0.3 s" in caplog.text


def test_what_hung_all_along_is_not_waited_for_again(release):
    calls = BackgroundCalls("it")
    calls.submit(lambda: release.wait(10) and None)
    time.sleep(0.6)
    begin = time.monotonic()
    assert not calls.close(0.5, nothing)
    assert time.monotonic() - begin < 0.4


def test_the_last_call_is_made_when_a_hanging_one_comes_back(release):
    done = threading.Event()
    made = []
    calls = BackgroundCalls("it")
    calls.submit(lambda: release.wait(10) and None)
    calls.submit(lambda: made.append("dropped"))
    calls.close(0.1, done.set)
    release.set()
    assert done.wait(5)
    assert made == []


def test_a_connection_that_answered_once_gets_the_whole_time():
    calls = BackgroundCalls("it")
    calls.submit(nothing)
    time.sleep(0.5)
    calls.submit(lambda: time.sleep(0.2))
    assert calls.close(0.4, nothing)


def test_what_hangs_does_not_keep_the_process_alive():
    program = """
import time
from crvq.tracking.background_calls import BackgroundCalls
calls = BackgroundCalls("it")
calls.submit(lambda: time.sleep(60))
assert not calls.close(0.1, lambda: None)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
