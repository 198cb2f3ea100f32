"""A local folder stands in for the repository: `datasets` reads both by the same call."""

import json

import datasets
import pytest

from crvq.config import TextConfig
from crvq.data.text_sources.hub import load
from crvq.errors import ConfigError, SourceError


@pytest.fixture
def repo(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    folder = tmp_path / "repo"
    folder.mkdir()
    for split, letter in (("train", "a"), ("test", "b")):
        lines = [json.dumps({"text": f"{letter}{i}", "id": i}) for i in range(40)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return str(folder)


def texts(tmp_path, **settings):
    return load(TextConfig(source="hub", **settings), tmp_path).texts


def test_a_split_is_read_whole(repo, tmp_path):
    assert texts(tmp_path, repo=repo, split="test") == [f"b{i}" for i in range(40)]


def test_a_few_first_documents_are_streamed(repo, tmp_path, monkeypatch):
    asked = []
    original = datasets.load_dataset

    def watch(*args, **options):
        asked.append(options["streaming"])
        return original(*args, **options)

    monkeypatch.setattr("crvq.data.text_sources.hub.load_dataset", watch)
    assert texts(tmp_path, repo=repo, split="train", max_documents=2) == ["a0", "a1"]
    drawn = texts(tmp_path, repo=repo, split="train", max_documents=5, shuffle_seed=3)
    assert asked == [True, False]
    assert len(set(drawn)) == 5
    assert drawn != [f"a{i}" for i in range(5)]


def test_one_file_of_the_repository(repo, tmp_path):
    found = texts(tmp_path, repo=repo, split="validation", data_files="test.jsonl", max_documents=1)
    assert found == ["b0"]


@pytest.mark.parametrize("most", [None, 3], ids=["downloaded", "streamed"])
def test_a_missing_column_lists_those_that_there_are(repo, tmp_path, most):
    with pytest.raises(ConfigError, match=r"column=body .*it has: text, id"):
        texts(tmp_path, repo=repo, split="test", column="body", max_documents=most)


def test_no_repository_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="repo is not set"):
        texts(tmp_path)


def test_no_hub_and_no_cache_names_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"(?s)nobody/nothing test .*path=FILE"):
        texts(tmp_path, repo="nobody/nothing")
