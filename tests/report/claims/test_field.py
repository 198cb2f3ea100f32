"""Orders of rival methods at as many bits."""

import pytest

from crvq.report.claims import Evidence, Verdict
from crvq.report.claims.field import beats


def found(runs_of, *runs, least=0.0, most=16.0):
    evidence = Evidence(runs_of(*runs))
    return beats(evidence, "arb_llm", "billm", least, most)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(60.0, Verdict.HOLDS), (100.5, Verdict.UNDECIDED), (150.0, Verdict.FAILS)],
)
def test_the_order_of_two_methods(runs_of, make_run, ours, verdict):
    runs = [
        make_run(ours, bits=2.9, method="arb_llm"),
        make_run(100.0, bits=2.8, method="billm"),
        make_run(900.0, bits=4.0, method="billm", beam=4),
        make_run(5.0, bits=2.9, method="gptq"),
    ]
    finding = found(runs_of, *runs)
    assert finding.verdict is verdict
    assert f"100.00 → {ours:.2f}" in finding.measured
    assert "900" not in finding.measured


@pytest.mark.parametrize(
    "other", [{"bits": 2.0}, {"bits": 2.8, "model": "other"}, {"bits": 17.0}], ids=str
)
def test_only_as_many_bits_on_the_same_model_count(runs_of, make_run, other):
    runs = [
        make_run(60.0, bits=2.9, method="arb_llm"),
        make_run(100.0, method="billm", **other),
    ]
    assert found(runs_of, *runs).verdict is Verdict.UNTESTED
