import math

import pytest

from crvq.report.claims.evidence import Evidence, param, uses_critical

RATIO = "config.method_params.critical_ratio"


def is_ratio(value):
    return lambda row: param(row, "critical_ratio") == value


def test_pairs_differ_in_nothing_else(runs_of, make_run):
    evidence = Evidence(
        runs_of(
            make_run(100.0, bits=1.0, critical_ratio=0.0),
            make_run(80.0, bits=1.25),
            make_run(10.0, critical_ratio=0.0, group_size=4),
            make_run(5.0, model="other"),
        )
    )
    (pair,) = evidence.pairs([RATIO], is_ratio(0.0), is_ratio(0.02))
    assert pair.gain == pytest.approx(math.log(100 / 80))
    assert pair.bits == 0.25
    assert len(pair.run_ids) == 2


def test_gains_are_the_mean_over_shared_protocols(runs_of, make_run):
    evidence = Evidence(
        runs_of(
            make_run({"wiki": 100.0, "c4": 90.0, "own": 1.0}, critical_ratio=0.0),
            make_run({"wiki": 50.0, "c4": 30.0}),
        )
    )
    (pair,) = evidence.pairs([RATIO], is_ratio(0.0), is_ratio(0.02))
    assert pair.gain == pytest.approx((math.log(2) + math.log(3)) / 2)


@pytest.mark.parametrize("second", [{"c4": 50.0}, {"wiki": math.nan}, {}], ids=str)
def test_no_shared_number_is_no_pair(runs_of, make_run, second):
    evidence = Evidence(runs_of(make_run(100.0, critical_ratio=0.0), make_run(second)))
    assert evidence.pairs([RATIO], is_ratio(0.0), is_ratio(0.02)) == []


def test_seeds_are_one_setting(runs_of, make_run):
    seeds = [make_run(v, config={"seed": n}) for n, v in enumerate((70.0, 90.0))]
    evidence = Evidence(runs_of(make_run(100.0, critical_ratio=0.0, config={"seed": 0}), *seeds))
    (pair,) = evidence.pairs([RATIO], is_ratio(0.0), is_ratio(0.02))
    assert pair.gain == pytest.approx(math.log(100 / 80))
    assert len(pair.run_ids) == 3


def test_a_pair_knows_the_errors_of_its_sides(runs_of, make_run):
    seeds = [make_run(v, config={"seed": n}) for n, v in enumerate((70.0, 80.0, 90.0))]
    evidence = Evidence(runs_of(make_run(100.0, critical_ratio=0.0, config={"seed": 0}), *seeds))
    (pair,) = evidence.pairs([RATIO], is_ratio(0.0), is_ratio(0.02))
    single, mean = pair.errors
    assert single == pytest.approx(mean * math.sqrt(3))


def test_damage_is_the_mean_over_protocols(runs_of, make_run):
    evidence = Evidence(runs_of(make_run({"wiki": 20.0, "c4": 80.0}), make_run({}, reorder="none")))
    one, none = evidence.rows()
    assert evidence.damage(one) == pytest.approx(math.log(4))
    assert evidence.damage(none) == math.inf


def test_groups_need_the_key(runs_of, make_run):
    runs = runs_of(make_run(), make_run(critical_ratio=0.0), make_run(method="rtn", bits=2.0))
    (group,) = Evidence(runs).groups(RATIO)
    assert [param(row, "critical_ratio") for row in group] == [0.02, 0.0]


@pytest.mark.parametrize(
    ("params", "uses"),
    [({}, True), ({"critical_ratio": 0.0}, False), ({"extended_codebooks": 0}, False)],
)
def test_what_uses_critical_channels(runs_of, make_run, params, uses):
    (row,) = Evidence(runs_of(make_run(**params))).rows()
    assert uses_critical(row) is uses


def test_what_a_budget_chose_goes_before_what_was_asked(runs_of, make_run):
    effective = {"group_size": 4, "critical_ratio": 0.0139, "codebook": 1}
    (row,) = Evidence(runs_of(make_run(record={"effective": effective}))).rows()
    assert param(row, "group_size") == 4
    assert param(row, "codebook_bits") == 8
    assert param(row, "critical_ratio") == 0.02
    assert param(row, "codebook") is None
