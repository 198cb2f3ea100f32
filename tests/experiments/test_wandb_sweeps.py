"""W&B's sweep files make the command lines of the sweeps that they stand for."""

from itertools import product

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from crvq.tracking.run_id import run_id
from tests.experiments.conftest import FOLDER

FILES = sorted((FOLDER / "wandb").glob("*.yaml"))


def command_lines(sweep):
    """What W&B's agent would run for each point of a grid, without interpreter and program."""
    names = list(sweep["parameters"])
    for values in product(*(sweep["parameters"][name]["values"] for name in names)):
        chosen = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        expanded = create_sweep_command_args({"args": chosen})
        line = []
        for part in create_sweep_command(list(sweep["command"])):
            macro = part[2:-1] if part.startswith("${") else None
            line += expanded.get(macro, []) if macro else [part]
        yield line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_the_jobs_of_the_experiment_of_its_name(file, planned):
    sweep = yaml.safe_load(file.read_text())
    assert sweep["program"] == "run.py"
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    jobs = []
    for line in command_lines(sweep):
        (job,) = planned(*line)
        assert job.tracking.mode == "online"
        jobs.append(job)
    wanted = planned(f"+experiments={file.stem}")
    assert [run_id(job) for job in jobs] == [run_id(job) for job in wanted]
    assert {job.experiment for job in jobs} == {wanted[0].experiment}


def test_the_papers_ablations_are_there():
    names = {file.stem for file in FILES}
    assert names >= {
        "critical_ratio",
        "extended_codebooks",
        "finetune_stages",
        "importance",
        "methods",
    }
