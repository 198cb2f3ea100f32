import sys
import time

import numpy as np
import pytest

from crvq.tracking.memory import PeakMemory, _reset_kernel_peak

KERNEL = pytest.param(
    False,
    id="kernel",
    marks=pytest.mark.skipif(
        sys.platform != "linux" or not _reset_kernel_peak(),
        reason="this system does not reset the kernel's peak counter",
    ),
)
MEGABYTE = 2**20


def _touch(megabytes):
    block = np.ones(megabytes * MEGABYTE // 8)
    time.sleep(0.15)  # a sampler needs to see it
    del block


@pytest.mark.parametrize("sample", [KERNEL, pytest.param(True, id="sampled")])
def test_peak_is_that_of_this_job_alone(sample):
    with PeakMemory(sample=sample) as large:
        base = large.host_bytes
        _touch(200)
    with PeakMemory(sample=sample) as small:
        _touch(60)
    assert (large.host_bytes - base) / MEGABYTE == pytest.approx(200, abs=20)
    # The first job's peak, which the process counter would still show, is forgotten.
    assert (small.host_bytes - base) / MEGABYTE == pytest.approx(60, abs=20)


def test_peak_outlives_what_caused_it_but_not_the_measurement():
    with PeakMemory() as peak:
        base = peak.host_bytes
        _touch(100)
        assert peak.host_bytes - base > 80 * MEGABYTE
    after = peak.host_bytes
    _touch(200)
    assert peak.host_bytes == after


def test_the_thread_ends_with_the_measurement():
    with PeakMemory(sample=True) as peak:
        assert peak._thread is not None
        assert peak._thread.is_alive()
    assert not peak._thread.is_alive()
