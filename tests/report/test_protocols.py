"""Comparability is decided from structured keys, also for records from before they had one."""

from crvq.config.evaluation import PerplexityConfig
from crvq.report.protocols import protocol_names, protocol_of, record_protocol


def measured(**changes):
    return {"tokens": 640, "context": 64, "windows": 10, "windows_available": 90, **changes}


def test_an_older_record_has_the_key_that_a_new_one_would_have():
    text = PerplexityConfig(context=64, max_windows=10)
    new = measured(key=text.protocol_key("none", 10, 90), protocol="words of today")
    old = measured(protocol="words of another version")
    config = {**text.model_dump(), "a_key_of_another_version": 1}
    assert protocol_of("wiki", new, None) == protocol_of("wiki", old, config)


def test_what_a_number_depends_on_keeps_protocols_apart():
    text = PerplexityConfig(context=64, max_windows=10)
    others = [
        text,
        text.model_copy(update={"context": 128}),
        text.model_copy(update={"stride": 32}),
        text.model_copy(update={"part": "calibration"}),
        text.model_copy(update={"source": "hub", "repo": "a/b"}),
        text.model_copy(update={"path": "own.txt"}),
        text.model_copy(update={"windows": "drawn"}),
        text.model_copy(update={"windows": "drawn", "seed": 1}),
    ]
    found = [protocol_of("wiki", measured(), one.model_dump()) for one in others]
    found += [protocol_of("wiki", measured(bos="each_window"), text.model_dump())]
    found += [protocol_of("wiki", measured(windows=9), text.model_dump())]
    assert len(set(found)) == len(others) + 2
    assert len(set(protocol_names(found).values())) == len(found)


def test_tokenizers_that_cut_a_whole_text_differently_share_a_protocol():
    text = PerplexityConfig(context=64).model_dump()
    first, second = (
        protocol_of("wiki", measured(windows=n, windows_available=n, tokens=64 * n), text)
        for n in (90, 80)
    )
    assert first == second
    assert first.label() == "wiki, 64"
    assert not first.is_partial


def test_an_agreement_is_keyed_by_the_text_that_it_was_measured_on(make_record):
    text = PerplexityConfig(context=64).model_dump()
    entry = {"kl_divergence": 1.0, "top1_agreement": 0.5, **measured(windows=4)}
    del entry["windows_available"]
    record = make_record(agreement={"wiki": entry}, config={"eval": {"perplexity": {"wiki": text}}})
    assert record_protocol(record, "agreement", "wiki").key["text"]["source"] == "boolq_wikipedia"
