from crvq.report.dashboard.protocols import protocol_names

from .conftest import perplexity


def names(make_record, *entries):
    records = [make_record(perplexity=entry) for entry in entries]
    return list(protocol_names(records).values())


def test_a_dataset_read_in_one_way_is_just_its_name(make_record):
    assert names(make_record, perplexity(1.0), perplexity(2.0)) == ["wiki"]


def test_what_must_not_be_compared_is_told_apart(make_record):
    found = names(make_record, perplexity(1.0), perplexity(1.0, context=128))
    assert found == ["wiki (context 64, 4,096 tokens)", "wiki (context 128, 4,096 tokens)"]


def test_protocols_that_differ_in_words_only(make_record):
    entries = [perplexity(1.0, protocol=words) for words in ("first", "random", "other")]
    found = names(make_record, *entries)
    assert len(set(found)) == 3


def test_no_perplexity(make_record):
    assert names(make_record, {}) == []


def test_older_words_for_the_same_protocol_are_the_same():
    once = {
        "context": 64,
        "tokens": 128,
        "protocol": "wiki; non-overlapping windows, one tokenization",
    }
    now = {**once, "protocol": r"wiki; joined by '\n\n', one tokenization; windows do not overlap"}
    names = protocol_names([{"perplexity": {"wiki": once}}, {"perplexity": {"wiki": now}}])
    assert set(names.values()) == {"wiki"}
