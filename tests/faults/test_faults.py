"""Faults tried from outside on a tiny model: a representative part here, all with ``-m faults``."""

import pytest

from tests.faults.bench import Bench
from tests.faults.suite import all_faults, markdown, rows, try_all, try_fault

SHORT = [fault for fault in all_faults() if fault.short]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("faults"), forked=True)
    yield made
    made.close()


@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: f"{fault.kind}, {fault.name}")
def test_a_fault_is_survived(fault, bench):
    tried = try_fault(bench, fault)
    if tried.outcome == "skipped":
        pytest.skip(tried.message)
    assert tried.outcome == "survived", tried.message


def test_the_suite_tries_more_than_three_hundred_faults_of_each_kind():
    faults = all_faults()
    kinds = {fault.kind for fault in faults}
    assert len(faults) > 300
    assert len({(fault.kind, fault.name) for fault in faults}) == len(faults)
    assert sum("SIGKILL" in fault.kind for fault in faults) > 120
    assert len(kinds) > 20


@pytest.mark.faults
def test_all_faults_are_survived(tmp_path):
    bench = Bench(tmp_path)
    try:
        results = try_all(bench, all_faults(), 2, lambda tried: None)
    finally:
        bench.close()
    table = markdown(results, "python -m tests.faults", 0.0)
    assert rows(results)[-1][1] == rows(results)[-1][2], table
