"""What preflight checks is what Hydra composes."""

import pytest

from crvq.cli.arguments import tidy_arguments
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError
from tests.conftest import ROOT


def jobs(*arguments):
    checked = check_command(tidy_arguments([*arguments]), ROOT / "conf", "config")
    assert checked is not None
    return checked[1]


def refused(*arguments):
    with pytest.raises(ConfigError) as error:
        check_command(tidy_arguments([*arguments]), ROOT / "conf", "config")
    return str(error.value)


def test_a_glob_is_the_options_that_it_matches():
    names = [job.model.name for job in jobs("-m", "model=glob(llama-2-*)")]
    assert names == ["LLaMA-2-13B", "LLaMA-2-7B"]
    assert [job.method for job in jobs("-m", "method=glob([rtn,gptq])")] == ["gptq", "rtn"]


def test_ranges_choices_and_casts_are_swept_as_hydra_sweeps_them():
    assert [job.seed for job in jobs("-m", "seed=range(3)")] == [0, 1, 2]
    ratios = [j.method_params.critical_ratio for j in jobs("-m", "crvq.critical_ratio=choice(0,1)")]
    assert ratios == [0, 1]
    assert [job.seed for job in jobs("-m", "seed=shuffle(4,5)")] in ([4, 5], [5, 4])


def test_another_folder_of_configurations_and_the_experiments_at_once(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [_base]\nname: mine\nsource: path\npath: /models/mine\n"
    )
    found = jobs("--config-dir", str(tmp_path), "+experiments=importance", "model=mine")
    assert len(found) == 6
    assert {job.model.path for job in found} == {"/models/mine"}
    assert {job.experiment for job in found} == {"smollm2-importance"}


def test_experiments_of_the_working_folder_are_found_too(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own.yaml").write_text("# @package _global_\nseed: 41\n")
    monkeypatch.chdir(tmp_path)
    assert jobs("+experiments=own")[0].seed == 41
    assert len(jobs("+experiments=critical_ratio")) == 7


def test_a_sweep_of_the_command_line_wins_over_the_file():
    found = jobs("+experiments=critical_ratio", "crvq.critical_ratio=0.5")
    assert [job.method_params.critical_ratio for job in found] == [0.5]


def test_one_job_of_a_sweep_file():
    assert len(jobs("+experiments=critical_ratio", "hydra.mode=RUN")) == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["method=rtn,gptq"], ["method=rtn,gptq is a sweep", "-m"]),
        (["-m", "seed=interval(0,1)"], ["seed=interval(0,1)", "KEY=0,0.5,1"]),
        (["-m", "seed=0,1", "--cfg", "job"], ["only one of these"]),
        (["--config-dir", "/nowhere", "seed=1"], ["--config-dir /nowhere"]),
        (["seed=[1"], ["seed=[1: Hydra cannot read"]),
        (["crvq.critical_ratio=2%"], ["crvq.critical_ratio=2%", "write 0.02"]),
        (["seed=${nope}"], ["seed", "nope"]),
        (["~method"], ["method"]),
        (["gptq.bits=2"], ["method=gptq"]),
        (
            ["eval=wikitext2", "eval.perplexity.wikipedia.max_windows=8"],
            ["wikipedia", "it reads: wikitext2", "+eval/dataset@eval.perplexity.wikipedia"],
        ),
        (["finetune.block.epochs=2"], ["finetune.block is null"]),
        (["--cfg", "job", "sed=3"], ["did you mean seed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_say_what_to_type(arguments, parts):
    message = refused(*arguments)
    for part in parts:
        assert part in message, message
    assert len(message.splitlines()) <= 2
