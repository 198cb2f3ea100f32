from crvq.report.dashboard.protocols import protocol_names

from .conftest import agreement, perplexity, zero_shot


def names(make_record, *entries):
    records = [make_record(perplexity=entry) for entry in entries]
    return list(protocol_names(records).perplexity.values())


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


def test_comparisons_are_told_apart_by_themselves(make_record):
    records = [
        make_record(perplexity={}, agreement={"wiki": agreement(1.0, context=context)})
        for context in (64, 128)
    ]
    found = list(protocol_names(records).agreement.values())
    assert found == ["wiki (context 64, 63 tokens)", "wiki (context 128, 63 tokens)"]


def task_sets(make_record, *sets):
    records = [
        make_record(zero_shot={task: zero_shot(0.5, **asked) for task, asked in tasks.items()})
        for tasks in sets
    ]
    return list(protocol_names(records).task_sets.values())


def test_one_set_of_tasks_needs_no_name(make_record):
    tasks = {"arc": {"limit": 100}}
    assert task_sets(make_record, tasks, tasks) == [""]


def test_sets_of_tasks_are_named_by_number_and_limit_or_by_all_of_them(make_record):
    limited = {"arc": {"limit": 100}, "piqa": {"limit": 100}}
    assert task_sets(make_record, limited, {"arc": {}}) == [
        " over 2 tasks, first 100",
        " over 1 tasks",
    ]
    other = {"arc": {"limit": 100}, "boolq": {"limit": 100}}
    assert task_sets(make_record, limited, other) == [
        " over arc, first 100; piqa, first 100",
        " over arc, first 100; boolq, first 100",
    ]


def test_sources_are_named_where_there_are_several(make_record):
    records = [
        make_record(zero_shot={"arc": zero_shot(0.5, source=source)})
        for source in ("hub", "packaged")
    ]
    names = protocol_names(records)
    assert [list(names.tasks(record)) for record in records] == [["arc, hub"], ["arc, packaged"]]
    assert list(protocol_names(records[:1]).tasks(records[0])) == ["arc"]
