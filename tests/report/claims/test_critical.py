import pytest

from crvq.report.claims import Evidence, Verdict
from crvq.report.claims.critical import (
    as_fast_as_one_codebook,
    critical_channels_help,
    extra_bits_are_few,
    more_beat_larger,
    three_extended_are_best,
    two_percent_suffice,
    works_across_models,
    works_on_stronger_bases,
)

H, P, F = Verdict.HOLDS, Verdict.IN_PART, Verdict.FAILS
U, N = Verdict.UNDECIDED, Verdict.UNTESTED
CHECKS = [
    critical_channels_help,
    more_beat_larger,
    three_extended_are_best,
    two_percent_suffice,
    works_across_models,
    works_on_stronger_bases,
    as_fast_as_one_codebook,
    lambda evidence: extra_bits_are_few(evidence, 0.06),
]


@pytest.mark.parametrize("check", CHECKS)
def test_without_records_nothing_can_be_tested(runs_of, make_run, check):
    for runs in (runs_of(), runs_of(make_run()), runs_of(make_run(method="rtn", bits=3.0))):
        assert check(Evidence(runs)).verdict is N


@pytest.mark.parametrize(("with_", "verdict"), [(80.0, H), (98.0, U), (120.0, F)])
def test_critical_channels(runs_of, make_run, with_, verdict):
    pair = [make_run(100.0, bits=1.0, critical_ratio=0.0), make_run(with_, bits=1.2)]
    finding = critical_channels_help(Evidence(runs_of(*pair)))
    assert finding.verdict is verdict
    assert finding.run_ids == tuple(run["run_id"] for run in pair)
    assert "+0.200 bits" in finding.measured


def test_pairs_name_their_model_where_there_are_several(runs_of, make_run):
    one = critical_channels_help(Evidence(runs_of(*of_models(make_run, (80, 50))[:2]))).measured
    both = critical_channels_help(Evidence(runs_of(*of_models(make_run, (80, 50))))).measured
    assert "small" not in one
    assert "small, CRVQ" in both
    assert "large, CRVQ" in both


@pytest.mark.parametrize(
    ("extra", "codes", "verdict"), [(0.062, 0.05, H), (0.19, 0.04, P), (0.19, 0.10, F)]
)
def test_extra_bits(runs_of, make_run, extra, codes, verdict):
    def parts(of_codes):
        return {"codes": 100 * of_codes, "codebooks": 5.0}

    runs = runs_of(
        make_run(bits=1.0, critical_ratio=0.0, parts=parts(1.0)),
        make_run(bits=1.0 + extra, parts=parts(1.0 + codes)),
    )
    finding = extra_bits_are_few(Evidence(runs), 0.06)
    assert finding.verdict is verdict
    assert f"codes {codes:+.3f}" in finding.measured


def test_extra_bits_are_those_of_the_papers_layout(runs_of, make_run):
    runs = runs_of(*(make_run(group_size=4, critical_ratio=ratio) for ratio in (0.0, 0.02)))
    assert extra_bits_are_few(Evidence(runs), 0.06).verdict is N


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({0: 100, 0.02: 70, 0.04: 69, 0.16: 66}, H),
        ({0: 100, 0.02: 60, 0.04: 59, 0.16: 50}, P),
        ({0: 100, 0.02: 80, 0.16: 40}, P),  # half the perplexity, for seven times the bits
        ({0: 100, 0.02: 80, 0.04: 40}, F),
        ({0: 100, 0.02: 96, 0.16: 50}, U),
        ({0: 100, 0.02: 130, 0.16: 50}, F),
        ({0: 100, 0.02: 70, 0.01: 50}, N),
        ({0.02: 70, 0.04: 50}, N),
    ],
    ids=str,
)
def test_two_percent(runs_of, make_run, values, verdict):
    runs = runs_of(
        *(make_run(v, bits=1 + ratio, critical_ratio=float(ratio)) for ratio, v in values.items())
    )
    assert two_percent_suffice(Evidence(runs)).verdict is verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({0: 100, 1: 90, 3: 50, 4: 70}, H),
        ({0: 100, 1: 90, 3: 50, 4: 48}, U),
        ({0: 100, 2: 30, 3: 50}, F),
        ({2: 30, 3: 50}, N),
        ({0: 100, 1: 90, 2: 50}, N),
    ],
    ids=str,
)
def test_three_extended_codebooks(runs_of, make_run, values, verdict):
    runs = runs_of(*(make_run(v, extended_codebooks=m) for m, v in values.items()))
    assert three_extended_are_best(Evidence(runs)).verdict is verdict


@pytest.mark.parametrize(("many", "verdict"), [(70.0, H), (98.0, U), (130.0, F)])
def test_more_codebooks_against_larger_ones(runs_of, make_run, many, verdict):
    runs = runs_of(
        make_run(100.0, extended_codebooks=2, extended_bits=8),
        make_run(many, extended_codebooks=4, extended_bits=4),
        make_run(1.0, extended_codebooks=4, extended_bits=8),
    )
    assert more_beat_larger(Evidence(runs)).verdict is verdict


@pytest.mark.parametrize(("with_", "verdict"), [(80.0, H), (98.0, U), (120.0, F)])
@pytest.mark.parametrize(
    "base",
    [{"group_size": 4}, {"codebook_bits": 12}, {"codebook_bits": 16, "group_size": 16}],
    ids=str,
)
def test_stronger_bases(runs_of, make_run, base, with_, verdict):
    other = [make_run(9.0 * (1 + ratio), critical_ratio=ratio) for ratio in (0.0, 0.02)]
    pair = [make_run(100.0, critical_ratio=0.0, **base), make_run(with_, **base)]
    assert works_on_stronger_bases(Evidence(runs_of(*other, *pair))).verdict is verdict


@pytest.mark.parametrize(
    "base",
    [{"group_size": 16}, {"codebook_bits": 6}, {"codebook_bits": 12, "group_size": 16}],
    ids=str,
)
def test_weaker_bases_say_nothing_of_stronger_ones(runs_of, make_run, base):
    pair = [make_run(100.0, critical_ratio=0.0, **base), make_run(50.0, **base)]
    assert works_on_stronger_bases(Evidence(runs_of(*pair))).verdict is N


def test_which_base_is_stronger_is_said(runs_of, make_run):
    pair = [make_run(100.0, critical_ratio=r, group_size=4) for r in (0.0, 0.02)]
    finding = works_on_stronger_bases(Evidence(runs_of(*pair)))
    assert finding.measured.startswith("2 bits of code per weight (d=4, indices of 8 bits): ")


def of_models(make_run, values, sizes=(125e6, 13e9)):
    """A pair a model: 100 without critical channels, and the value with them."""
    return [
        make_run(value, model=model, critical_ratio=ratio, parts={"all_weights": size})
        for model, size, with_ in zip(("small", "large"), sizes, values, strict=True)
        for ratio, value in ((0.0, 100.0), (0.02, float(with_)))
    ]


@pytest.mark.parametrize(
    ("values", "verdict"), [((80, 50), H), ((80, 98), P), ((120, 130), F), ((98, 97), U)]
)
def test_models(runs_of, make_run, values, verdict):
    finding = works_across_models(Evidence(runs_of(*of_models(make_run, values))))
    assert finding.verdict is verdict
    assert finding.measured.startswith("small (125M): ")


@pytest.mark.parametrize("sizes", [(135e6, 1.7e9), (7e9, 13e9)], ids=str)
def test_sizes_that_do_not_span_the_claim_are_a_part_of_it(runs_of, make_run, sizes):
    runs = runs_of(*of_models(make_run, (80, 50), sizes))
    assert works_across_models(Evidence(runs)).verdict is P


def test_toys_do_not_count(runs_of, make_run):
    runs = runs_of(*of_models(make_run, (80, 50), (1e6, 135e6)))
    finding = works_across_models(Evidence(runs))
    assert finding.verdict is N
    assert "large of 135M" in finding.measured


def test_one_model_is_no_range(runs_of, make_run):
    runs = runs_of(*of_models(make_run, (80, 50))[:2])
    assert works_across_models(Evidence(runs)).verdict is N


def timed(decode):
    model = {
        "prefill_tokens_per_second": 1000.0,
        "decode_tokens_per_second": decode,
        "linear_bytes": 1,
        "path": "packed",
    }
    how = {"prompt_tokens": 8, "new_tokens": 4, "threads": 1, "activation_dtype": "float32"}
    return {**how, "quantized": model}


@pytest.mark.parametrize(("speed", "verdict"), [(100.0, H), (97.0, H), (120.0, H), (80.0, F)])
def test_speed(runs_of, make_run, speed, verdict):
    runs = runs_of(
        make_run(critical_ratio=0.0, record={"speed": timed(100.0)}),
        make_run(record={"speed": timed(speed)}),
    )
    assert as_fast_as_one_codebook(Evidence(runs)).verdict is verdict
