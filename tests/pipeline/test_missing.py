import pytest

from crvq.config import EvalConfig
from crvq.pipeline.add_evaluation import is_empty, missing_evaluation, with_added
from crvq.tracking.record_schema import Record

DONE = EvalConfig(perplexity={"wiki": {"context": 64}}, agreement={}, generation={})


@pytest.fixture
def record():
    return Record.model_validate(
        {
            "run_id": "r",
            "experiment": "e",
            "model": "m",
            "method": "crvq",
            "config": {},
            "started": "2025-01-02T03:04:05+00:00",
            "updated": "2025-01-02T03:04:05+00:00",
            "perplexity": {"wiki": {"quantized": 9.0, "tokens": 640, "context": 64, "windows": 3}},
            "agreement": {
                "wiki": {
                    "kl_divergence": 1,
                    "top1_agreement": 0.5,
                    "tokens": 9,
                    "context": 64,
                    "windows": 3,
                }
            },
        }
    )


def missing(record, wanted, **options):
    return missing_evaluation(record, DONE, wanted, options.pop("quantizes", True), **options)


def test_nothing_is_missing_from_what_is_all_there(record):
    assert is_empty(missing(record, DONE))
    # Four windows asked, of a text of three: the same.
    assert is_empty(missing(record, EvalConfig(perplexity={"wiki": {"context": 64}})))


def test_another_dataset_is_missing_alone(record):
    wanted = EvalConfig(perplexity={"wiki": {"context": 64}, "c4": {"context": 64}})
    assert list(missing(record, wanted).perplexity) == ["c4"]


def test_a_name_taken_by_another_protocol_gets_its_own(record):
    wanted = EvalConfig(perplexity={"wiki": {"context": 32}}, agreement={})
    found = missing(record, wanted)
    assert found.perplexity == {"wiki_32": wanted.perplexity["wiki"]}
    assert found.agreement.dataset == "wiki_32"
    merged = with_added(DONE, found)
    assert list(merged.perplexity) == ["wiki", "wiki_32"]
    # Both of one context but another stride: a number tells them apart.
    strided = EvalConfig(perplexity={"wiki": {"context": 32, "stride": 8}})
    again = missing_evaluation(record, merged, strided, True)
    assert list(again.perplexity) == ["wiki_32_2"]


def test_what_got_its_own_name_is_found_again(record):
    wanted = EvalConfig(perplexity={"wiki": {"context": 32}})
    merged = with_added(DONE, missing(record, wanted))
    entry = record.perplexity["wiki"]
    record.perplexity = {"wiki": entry, "wiki_32": entry}
    assert is_empty(missing_evaluation(record, merged, wanted, True))


def test_what_was_asked_for_but_never_came_is_missing(record):
    record.perplexity["wiki"].quantized = None
    assert list(missing(record, DONE).perplexity) == ["wiki"]


def test_a_value_left_by_a_failed_attempt_does_not_count(record):
    record.perplexity["c4"] = record.perplexity["wiki"].model_copy()
    wanted = EvalConfig(perplexity={"c4": {"context": 128}})
    assert list(missing(record, wanted).perplexity) == ["c4"]


def test_full_precision_has_no_agreement_to_miss(record):
    record.perplexity["wiki"].full_precision = 8.0
    record.perplexity["wiki"].quantized = None
    record.agreement = {}
    assert is_empty(missing(record, DONE, quantizes=False))


def test_agreement_on_more_windows_is_missing(record):
    wanted = EvalConfig(perplexity={"wiki": {"context": 64}}, agreement={"max_windows": 2})
    assert missing(record, wanted).agreement.max_windows == 2


def test_other_prompts_are_missing(record):
    wanted = EvalConfig(generation={"prompts": ["a"]})
    assert missing(record, wanted).generation == wanted.generation
    assert with_added(DONE, missing(record, wanted)).generation == wanted.generation


def test_again_measures_all_of_it_under_its_name(record):
    wanted = EvalConfig(perplexity={"wiki": {"context": 32}}, agreement={}, generation={})
    found = missing(record, wanted, again=True)
    assert found.perplexity == wanted.perplexity
    assert found.agreement.dataset == "wiki"
    assert found.generation == wanted.generation
