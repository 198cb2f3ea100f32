"""The Optuna sweeper, with a launcher that computes a function instead of a run."""

import math
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from crvq.cli import search
from crvq.cli.main import CONFIG_NAME
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError
from tests.conftest import ROOT


class Launcher:
    """Returns what a function makes of each job's overrides, as the record of a run."""

    def __init__(self, function):
        self.function, self.jobs = function, []

    def launch(self, jobs, initial_job_idx):
        returned = []
        for job in jobs:
            values = {key: float(value) for key, value in (one.split("=") for one in job)}
            self.jobs.append(values)
            try:
                found = JobReturn(status=JobStatus.COMPLETED, _return_value=self.function(values))
            except ValueError as error:
                found = JobReturn(status=JobStatus.FAILED, _return_value=error)
            returned.append(found)
        return returned


@pytest.fixture
def sweeper(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(search, "record_in", lambda folder: eval(str(folder)))

    def make(function, **settings):
        options = {
            "n_trials": 12,
            "n_jobs": 1,
            "objectives": ["perplexity"],
            "seed": 0,
            "study": "s",
            "storage": str(tmp_path / "s.jsonl"),
            **settings,
        }
        made = search.OptunaSweeper(**options)
        made._context = SimpleNamespace(config_loader=None)
        made._launcher = Launcher(function)
        return made

    return make


def record(perplexity, bits=1.0):
    quantized = {"quantized": perplexity}
    return str(
        {"run_id": "r", "perplexity": {"w": quantized}, "bits": {"average_quantized_weights": bits}}
    )


def parsed(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


def test_it_finds_the_minimum_and_keeps_what_is_fixed(sweeper):
    made = sweeper(lambda job: record((job["x"] - 0.3) ** 2 + job["k"]), n_trials=30)
    (best,) = made.sweep(["x=interval(0,1)", "k=range(2,6)", "fixed=7"])
    assert best["k"] == 2
    assert abs(best["x"] - 0.3) < 0.1
    assert all(job["fixed"] == 7 for job in made._launcher.jobs)
    assert {job["k"] for job in made._launcher.jobs} <= {2, 3, 4, 5}


def test_a_search_goes_on_and_counts_what_failed(sweeper):
    def function(job):
        if job["x"] > 0.5:
            raise ValueError("too large")
        return record(job["x"])

    first = sweeper(function, n_trials=8)
    first.sweep(["x=interval(0,1)"])
    assert len(first._launcher.jobs) == 8
    more = sweeper(function, n_trials=11)
    more.sweep(["x=interval(0,1)"])
    assert len(more._launcher.jobs) == 3
    drawn = [job["x"] for job in first._launcher.jobs + more._launcher.jobs]
    assert len(set(drawn)) == 11
    with pytest.raises(ConfigError, match=r"set another hydra\.sweeper\.study"):
        sweeper(function).sweep(["y=interval(0,1)"])


def test_two_objectives_give_runs_of_which_none_is_beaten(sweeper):
    made = sweeper(
        lambda job: record(1 / job["b"], job["b"]), objectives=["bits", "perplexity"], n_trials=6
    )
    assert len(made.sweep(["b=choice(1,2,4)"])) >= 2


def test_logarithmic_intervals_and_steps(sweeper):
    made = sweeper(lambda job: record(job["x"]), n_trials=20)
    made.sweep(["x=tag(log,interval(0.001,1))", "s=range(0,10,5)"])
    jobs = made._launcher.jobs
    assert {job["s"] for job in jobs} <= {0, 5}
    assert sum(job["x"] < math.sqrt(0.001) for job in jobs) >= 4


@pytest.mark.parametrize(
    ("objectives", "overrides", "message"),
    [
        (["accuracy"], ["x=interval(0,1)"], "accuracy is unknown; allowed are perplexity, bits"),
        (["perplexity"], ["x=1"], "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_said_before_work(objectives, overrides, message):
    settings = OmegaConf.create({"objectives": objectives})
    with pytest.raises(ConfigError, match=message):
        search.check_search(settings, parsed(*overrides))


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'crvq\[search\]'"):
        search.check_search(OmegaConf.create({"objectives": []}), [])


def test_a_searchs_first_values_are_checked_like_any_job(tiny_overrides):
    asked = ["-m", "hydra/sweeper=optuna", "crvq.critical_ratio=interval(2,3)", *tiny_overrides]
    with pytest.raises(ConfigError, match=r"crvq\.critical_ratio"):
        check_command(asked, ROOT / "conf", CONFIG_NAME)


def test_a_record_without_the_objective_is_named():
    with pytest.raises(ConfigError, match="the record r has no perplexity@c4"):
        search.measured({"run_id": "r", "perplexity": {"w": {"quantized": 2.0}}}, "perplexity@c4")
