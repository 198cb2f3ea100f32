import copy
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from crvq.vq.computed_once import computed_once


class Example:
    def __init__(self, log=None, together=None):
        self.log, self.together = log if log is not None else [], together

    @computed_once
    def value(self):
        """Documented."""
        if self.together is not None:
            self.together.wait(timeout=10)
        self.log.append("value")
        time.sleep(0.02)
        return object()

    @computed_once
    def pair(self):
        return self.value, self.value


def test_threads_that_share_an_object_get_one_value():
    example, together = Example(), Barrier(8)

    def ask(_):
        together.wait()
        return example.value

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(ask, range(8)))
    assert len(set(map(id, values))) == 1
    assert example.log == ["value"]


def test_threads_with_objects_of_their_own_do_not_wait_for_one_another():
    together = Barrier(4)  # broken, with an error, if one computes while the others wait
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.value, [Example(together=together) for _ in range(4)]))


def test_one_may_need_another_and_be_dropped():
    example = Example()
    first, second = example.pair
    assert first is second is example.value
    del example.__dict__["value"]
    assert example.value is not first
    assert Example.value.__doc__ == "Documented."


def test_an_error_is_not_kept():
    class Failing:
        calls = 0

        @computed_once
        def value(self):
            self.calls += 1
            if self.calls == 1:
                raise ValueError("not yet")
            return self.calls

    failing = Failing()
    with pytest.raises(ValueError, match="not yet"):
        _ = failing.value
    assert failing.value == failing.value == 2


def test_a_copy_keeps_what_is_computed_without_sharing_more():
    example = Example()
    copied = copy.copy(Example())
    assert copied.value is not example.value
