import math

import pytest

from crvq.report.dashboard.outcomes import as_number, outcomes, total_seconds
from crvq.report.dashboard.protocols import protocol_names

from .conftest import layer, perplexity, zero_shot


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
    assert values["bits a quantized weight"] == 2.0
    assert values["bits a weight, all weights"] == 9.0
    parts = ("codes", "codebooks", "scales", "permutation", "other")
    assert sum(values[f"bits: {part}"] for part in parts) == pytest.approx(2.0)


def test_zero_shot_scores_and_their_average(found):
    values = found(zero_shot={"arc": zero_shot(0.3), "piqa": zero_shot(0.5)})
    assert values["arc acc, quantized"] == 0.3
    assert values["zero-shot average of acc, quantized"] == pytest.approx(0.4)
    assert values["zero-shot average of acc, full precision"] == pytest.approx(0.6)
    assert not any("samples" in name for name in values)


def test_no_average_over_tasks_that_lack_the_metric(found):
    other = {"metrics": {"exact_match": {"quantized": 0.1}}}
    values = found(zero_shot={"arc": zero_shot(0.3), "gsm": other})
    assert values["gsm exact_match, quantized"] == 0.1
    assert not any("average" in name for name in values)


def test_agreement_seconds_and_sizes(found):
    entry = {"kl_divergence": 0.5, "top1_agreement": 0.75, "tokens": 8, "context": 8, "windows": 1}
    values = found(agreement={"wiki": entry}, peak_memory_bytes=2**31, packed_bytes=2**20)
    assert values["KL divergence on wiki"] == 0.5
    assert values["top-1 agreement on wiki"] == 0.75
    assert values["seconds, all stages"] == 42.0
    assert values["seconds: quantize"] == 40.0
    assert values["peak memory (GiB)"] == 2.0
    assert values["packed size (MiB)"] == 1.0


def test_sections_of_the_future_are_outcomes_by_their_path(found):
    values = found(speed={"decode": {"tokens_per_second": 7.5, "kernel": "x", "fused": True}})
    assert values["speed decode tokens per second"] == 7.5
    assert not any("kernel" in name or "fused" in name for name in values)


def test_configuration_is_no_outcome(found):
    names = " ".join(found(params={"critical_ratio": 0.02}, seeds={"seed": 1}))
    assert "seed" not in names
    assert "config" not in names


def test_losses_of_linears(found):
    values = found(rows=[layer(0, relative_loss=0.1), layer(1, relative_loss=0.3)])
    assert values["relative loss, mean of linears"] == pytest.approx(0.2)
    assert values["relative loss, worst linear"] == 0.3


def test_numbers_by_name():
    assert as_number("Infinity") == math.inf
    assert math.isnan(as_number("NaN"))
    assert as_number(True) is None
    assert as_number("12") is None
    assert as_number(3) == 3.0


def test_no_seconds_yet(make_record):
    assert total_seconds(make_record(seconds={})) is None
