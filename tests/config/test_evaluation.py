import pytest
from pydantic import ValidationError

from crvq.config import EvalConfig, GenerationConfig, PerplexityConfig


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"context": 8, "stride": 9}, "stride=9 is above context=8"),
        ({"stride": 0}, "greater than or equal to 1"),
        ({"windows": "drawn"}, "needs max_windows"),
        ({"windows": "drawn", "max_windows": 2, "stride": 4}, "stride=4 is for windows=consec"),
        ({"windows": "random"}, "consecutive"),
    ],
)
def test_protocols_that_make_no_sense_are_refused(values, says):
    with pytest.raises(ValidationError, match=says):
        PerplexityConfig(**values)


def test_a_stride_of_a_window_is_no_overlap():
    assert PerplexityConfig(context=8, stride=8).stride == 8


TEXTS = {"wikipedia": {}, "wikitext2": {}}


def test_agreement_takes_the_first_dataset_or_the_one_named():
    assert EvalConfig(perplexity=TEXTS).agreement_dataset is None
    assert EvalConfig(perplexity=TEXTS, agreement={}).agreement_dataset == "wikipedia"
    named = EvalConfig(perplexity=TEXTS, agreement={"dataset": "wikitext2"})
    assert named.agreement_dataset == "wikitext2"


def test_agreement_without_text_is_refused():
    with pytest.raises(ValidationError, match="agreement needs text"):
        EvalConfig(agreement={})
    with pytest.raises(ValidationError, match=r"dataset=wikitext .*did you mean wikitext2\?"):
        EvalConfig(perplexity=TEXTS, agreement={"dataset": "wikitext"})


@pytest.mark.parametrize("prompts", [[], [" "], ["a", "a"]])
def test_prompts_are_there_and_differ(prompts):
    with pytest.raises(ValidationError, match="prompts"):
        GenerationConfig(prompts=prompts)
