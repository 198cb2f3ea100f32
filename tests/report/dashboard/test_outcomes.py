import pytest

from crvq.report.dashboard.outcomes import outcomes, total_seconds
from crvq.report.dashboard.protocols import protocol_names

from .conftest import agreement, perplexity


@pytest.fixture
def found(load):
    """Outcomes of one run with the given sections."""

    def found(**changes):
        runs = load(a__1=changes)
        return outcomes(runs[0], protocol_names(run.record for run in runs))

    return found


def test_perplexities_come_first_and_have_a_ratio(found):
    values = found(perplexity=perplexity(50.0))
    assert next(iter(values)) == "perplexity of wiki, quantized"
    assert values["perplexity of wiki, full precision"] == 20.0
    assert values["perplexity of wiki, ratio to full precision"] == 2.5


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(found, value):
    assert str(found(perplexity=perplexity(value))["perplexity of wiki, quantized"]) == str(value)


def test_bits_by_part_are_averages_that_add_up(found):
    bits = {
        "codes": 15.0,
        "codebooks": 2.0,
        "scales": 3.0,
        "average_quantized_weights": 2.0,
        "average_all_weights": 9.0,
        "quantized_weights": 10,
        "all_weights": 20,
    }
    values = found(bits=bits)
    assert values["bits per quantized weight"] == 2.0
    assert values["bits per weight, all weights"] == 9.0
    parts = ("codes", "codebooks", "scales", "permutation", "other")
    assert sum(values[f"bits: {part}"] for part in parts) == pytest.approx(2.0)


def test_agreement_seconds_and_sizes(found):
    values = found(agreement={"wiki": agreement(0.5)}, peak_memory_bytes=2**31, packed_bytes=2**20)
    assert values["KL divergence on wiki"] == 0.5
    assert values["seconds, all stages"] == 42.0
    assert values["seconds: quantize"] == 40.0
    assert values["peak memory (GiB)"] == 2.0
    assert values["packed size (MiB)"] == 1.0


def test_sections_of_the_future_are_outcomes_by_their_path(found):
    values = found(energy={"decode": {"joules_per_token": 7.5, "kernel": "x", "fused": True}})
    assert values["energy decode joules per token"] == 7.5
    assert not any("kernel" in name or "fused" in name for name in values)


def test_configuration_is_no_outcome(found):
    names = " ".join(found(params={"critical_ratio": 0.02}, seeds={"seed": 1}))
    assert "seed" not in names
    assert "config" not in names


def test_no_seconds_yet(make_record):
    assert total_seconds(make_record(seconds={})) is None
