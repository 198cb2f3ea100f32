import pytest

from crvq.report.tables import size_table, time_table
from crvq.report.tables.costs import TIMES_NOTE


def test_time_by_stage_fastest_solver_first(runs_of, make_run):
    runs = runs_of(
        make_run(record={"seconds": {"quantize": 90.0, "load": 1.0}}),
        make_run(group_size=4, record={"seconds": {"quantize": 30.0, "load": 2.0}}),
    )
    table = time_table(runs)
    assert table.frame["seconds.quantize"].tolist() == [30.0, 90.0]
    assert table.frame["seconds"].tolist() == [32.0, 91.0]
    heads = [column.head for column in table.shown]
    assert sorted(heads[:4]) == ["load", "quantize", "run", "time, min"]


def test_devices_are_told_apart_before_times(runs_of, make_run):
    def timed(device, seconds, **params):
        return make_run(record={"device": device, "seconds": {"quantize": seconds}}, **params)

    runs = runs_of(timed("cpu", 90.0), timed("cuda:0", 30.0), timed("cpu", 20.0, group_size=4))
    table = time_table(runs)
    assert table.frame["seconds.quantize"].tolist() == [20.0, 90.0, 30.0]
    assert TIMES_NOTE in table.notes


def test_parts_add_up_to_the_bits(runs_of, make_run):
    parts = {"codes": 100.0, "codebooks": 20.0, "scales": 4.0, "permutation": 1.0, "other": 0.0}
    frame = size_table(runs_of(make_run(bits=1.25, parts=parts))).frame
    shares = [frame[f"part {name}"][0] for name in parts]
    assert shares == [value / 100 for value in parts.values()]
    assert sum(shares) == pytest.approx(frame["bits"][0])


def test_no_runs(runs_of):
    for table in (time_table(runs_of()), size_table(runs_of())):
        assert table.frame.empty
        assert "python run.py" in table.missing()
