import pytest

from crvq.report.claims import Evidence, Verdict
from crvq.report.claims.baselines import beats_baselines, better_zero_shot, matches

TUNED = {"finetune": {"block": {"epochs": 2}}}


def rival(make_run, perplexity, bits=1.1, method="aqlm", **more):
    return make_run(perplexity, bits=bits, method=method, **more)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (61.0, Verdict.HOLDS),
        (80.0, Verdict.IN_PART),
        (97.0, Verdict.UNDECIDED),
        (130.0, Verdict.FAILS),
    ],
)
def test_against_the_strongest_baseline(runs_of, make_run, ours, verdict):
    runs = runs_of(
        make_run(ours),
        make_run(ours + 5, beam=4),
        rival(make_run, 100.0),
        rival(make_run, 900.0, method="gptq"),
    )
    finding = beats_baselines(Evidence(runs), claimed=0.389, as_published=True)
    assert finding.verdict is verdict
    assert "AQLM" in finding.measured
    assert f"{ours:.2f}" in finding.measured
    assert len(finding.run_ids) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"bits": 1.25 * 1.06},
        {"model": "other"},
        {"config": {"calibration": {"samples": 3}}},
        {"config": TUNED},
        {"method": "full_precision"},
        {"record": {"device": "cuda"}},
    ],
    ids=str,
)
def test_only_comparable_baselines_count(runs_of, make_run, other):
    evidence = Evidence(runs_of(make_run(50.0), rival(make_run, 100.0, **other)))
    assert beats_baselines(evidence, 0.389, as_published=True).verdict is Verdict.UNTESTED


def test_a_baseline_may_have_five_percent_more_bits(runs_of, make_run):
    evidence = Evidence(runs_of(make_run(50.0), rival(make_run, 100.0, bits=1.25 * 1.04)))
    assert beats_baselines(evidence, 0.389, as_published=True).verdict is Verdict.HOLDS


def test_the_best_crvq_stands_for_all(runs_of, make_run):
    """Not the one of fewer bits, whose rivals are weaker."""
    runs = runs_of(
        make_run(90.0, bits=1.0, beam=4),
        make_run(80.0, bits=1.25),
        rival(make_run, 900.0, bits=1.0),
        rival(make_run, 95.0, bits=1.25, method="gptvq"),
    )
    finding = beats_baselines(Evidence(runs), 0.389, as_published=True)
    assert "95.00 → 80.00" in finding.measured


def test_crvq_must_be_of_about_one_bit_and_have_critical_channels(runs_of, make_run):
    for own in ({"bits": 1.6}, {"critical_ratio": 0.0}):
        evidence = Evidence(runs_of(make_run(50.0, **own), rival(make_run, 100.0)))
        assert beats_baselines(evidence, 0.389, as_published=True).verdict is Verdict.UNTESTED


@pytest.mark.parametrize(
    "own", [{"reorder": "stratified"}, {"codebook_scope": "block"}, {"group_size": 4}], ids=str
)
def test_what_we_add_is_not_as_published(runs_of, make_run, own):
    evidence = Evidence(runs_of(make_run(50.0, **own), rival(make_run, 100.0)))
    assert beats_baselines(evidence, 0.389, as_published=True).verdict is Verdict.UNTESTED
    assert beats_baselines(evidence, 0.389, as_published=False).verdict is Verdict.HOLDS


def scored(make_run, value, **more):
    metric = {"quantized": value, "full_precision": 0.8}
    zero_shot = {"piqa": {"metrics": {"acc": metric}}}
    return make_run(record={"zero_shot": zero_shot}, **more)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (0.60, Verdict.HOLDS),
        (0.53, Verdict.IN_PART),
        (0.51, Verdict.UNDECIDED),
        (0.40, Verdict.FAILS),
    ],
)
def test_zero_shot(runs_of, make_run, ours, verdict):
    runs = runs_of(
        scored(make_run, ours),
        scored(make_run, 0.5, method="aqlm", bits=1.1),
        scored(make_run, 0.3, method="rtn", bits=1.2),
    )
    finding = better_zero_shot(Evidence(runs), claimed=0.16)
    assert finding.verdict is verdict
    assert f"50.0 → {100 * ours:.1f} %" in finding.measured


def test_zero_shot_of_many_more_bits_is_no_baseline(runs_of, make_run):
    runs = runs_of(scored(make_run, 0.6), scored(make_run, 0.5, method="aqlm", bits=1.5))
    assert better_zero_shot(Evidence(runs), claimed=0.16).verdict is Verdict.UNTESTED


def test_zero_shot_without_scores(runs_of, make_run):
    evidence = Evidence(runs_of(make_run(), rival(make_run, 1.0), scored(make_run, 0.5)))
    assert better_zero_shot(evidence, 0.1).verdict is Verdict.UNTESTED


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(80.0, Verdict.HOLDS), (105.0, Verdict.HOLDS), (120.0, Verdict.FAILS)],
)
def test_matching_means_not_worse(runs_of, make_run, ours, verdict):
    runs = runs_of(make_run(ours, config=TUNED), rival(make_run, 100.0, method="onebit"))
    assert matches(Evidence(runs), "onebit").verdict is verdict


def test_nothing_to_match(runs_of, make_run):
    assert matches(Evidence(runs_of(make_run())), "onebit").verdict is Verdict.UNTESTED


def test_zero_shot_is_the_mean_over_models_not_the_best(runs_of, make_run):
    runs = runs_of(
        *(scored(make_run, ours, model=name) for name, ours in (("a", 0.6), ("b", 0.4))),
        *(scored(make_run, 0.5, model=name, method="aqlm", bits=1.1) for name in "ab"),
    )
    finding = better_zero_shot(Evidence(runs), claimed=0.16)
    assert finding.verdict is Verdict.UNDECIDED
    assert len(finding.run_ids) == 4


@pytest.mark.parametrize(("stderr", "verdict"), [(0.01, Verdict.HOLDS), (0.06, Verdict.UNDECIDED)])
def test_zero_shot_of_few_questions_is_noisier(runs_of, make_run, stderr, verdict):
    def asked(value, **more):
        metric = {"quantized": value, "full_precision": 0.8, "quantized_stderr": stderr}
        tasks = {"piqa": {"metrics": {"acc": metric}}}
        return make_run(record={"zero_shot": tasks}, **more)

    runs = runs_of(asked(0.6), asked(0.5, method="aqlm", bits=1.1))
    assert better_zero_shot(Evidence(runs), claimed=0.16).verdict is verdict
