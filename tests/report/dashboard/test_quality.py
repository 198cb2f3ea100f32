import math

import pytest

from crvq.report.dashboard.protocols import protocol_names
from crvq.report.dashboard.quality import as_number, quality

from .conftest import agreement, layer, perplexity, zero_shot


@pytest.fixture
def measures(load):
    """Measures of each of some runs, by name."""

    def measured(*changes):
        runs = load(**{f"a__{number}": change for number, change in enumerate(changes)})
        names = protocol_names(run.record for run in runs)
        return [{one.name: one for one in quality(run, names)} for run in runs]

    return measured


def test_zero_shot_scores_and_their_average(measures):
    (found,) = measures({"zero_shot": {"arc": zero_shot(0.3), "piqa": zero_shot(0.5)}})
    assert found["arc: acc, quantized"].value == 0.3
    assert found["zero-shot average of acc, quantized"].value == pytest.approx(0.4)
    assert found["zero-shot average of acc, full precision"].value == pytest.approx(0.6)
    assert not any("samples" in name for name in found)


def test_no_average_over_tasks_that_lack_the_metric(measures):
    other = {"metrics": {"exact_match": {"quantized": 0.1}}}
    (found,) = measures({"zero_shot": {"arc": zero_shot(0.3), "gsm": other}})
    assert found["gsm: exact_match, quantized"].value == 0.1
    assert not any("average" in name for name in found)


def test_averages_over_other_tasks_or_limits_share_no_name(measures):
    def asked(limit, *tasks):
        return {"zero_shot": {task: zero_shot(0.3, limit=limit) for task in tasks}}

    found = measures(asked(100, "arc", "piqa"), asked(1000, "arc", "piqa"), asked(100, "arc"))
    averages = [{name for name in one if "average" in name} for one in found]
    assert averages[0] == {
        "zero-shot average of acc over 2 tasks, first 100, quantized",
        "zero-shot average of acc over 2 tasks, first 100, full precision",
    }
    assert averages[0].isdisjoint(averages[1])
    assert "arc, first 1000: acc, quantized" in found[1]
    assert "arc, first 1000: acc, quantized" not in found[0]


def test_agreement_at_other_contexts_shares_no_name(measures):
    entries = [{"agreement": {"wiki": agreement(0.5, context=n)}} for n in (512, 2048)]
    found = measures(*({**entry, "perplexity": {}} for entry in entries))
    assert {name for name in found[0] if name.startswith("KL")} == {
        "KL divergence on wiki (context 512, 63 tokens)"
    }
    assert set(found[0]).isdisjoint(found[1])


def test_which_way_is_better(measures):
    (found,) = measures(
        {
            "agreement": {"wiki": agreement(0.5)},
            "zero_shot": {"arc": zero_shot(0.3)},
            "perplexity": perplexity(50.0, quantized_bits_per_byte=2.0),
            "rows": [layer(0)],
        }
    )
    better_high = {name for name, one in found.items() if not one.lower_is_better}
    assert better_high == {
        "top-1 agreement on wiki",
        "arc: acc, quantized",
        "arc: acc, full precision",
    }
    assert found["bits per byte of wiki, quantized"].of_quantized


def test_full_precision_is_no_outcome_of_quantization(measures):
    (found,) = measures({"zero_shot": {"arc": zero_shot(0.3)}})
    assert {name for name, one in found.items() if not one.of_quantized} == {
        "perplexity of wiki, full precision",
        "arc: acc, full precision",
    }


def test_losses_of_linears(measures):
    rows = [layer(0, relative_loss=0.1), layer(1, relative_loss=0.3)]
    (found,) = measures({"rows": rows})
    assert found["relative loss, mean of linears"].value == pytest.approx(0.2)
    assert found["relative loss, worst linear"].value == 0.3


def test_numbers_by_name():
    assert as_number("Infinity") == math.inf
    assert math.isnan(as_number("NaN"))
    assert as_number(True) is None
    assert as_number("12") is None
    assert as_number(3) == 3.0
