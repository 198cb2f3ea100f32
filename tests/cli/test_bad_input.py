"""What bad input gets: one clear error before any work is done."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from crvq.pipeline.run import run_folder

REFUSED = {
    "unknown option of a group": (
        ["method=crqv"],
        ["method=crqv", "did you mean crvq?", "full_precision"],
    ),
    "misspelt key": (
        ["crvq.critical_ration=0.1"],
        ["crvq.critical_ration=0.1", "did you mean crvq.critical_ratio"],
    ),
    "misspelt top-level key": (["sed=3"], ["sed=3", "did you mean seed"]),
    "appended key": (["+crvq.beams=3"], ["crvq.beams", "did you mean beam"]),
    "ratio above one": (["crvq.critical_ratio=1.5"], ["crvq.critical_ratio=1.5", "at most 1"]),
    "negative ratio": (["crvq.critical_ratio=-0.1"], ["crvq.critical_ratio=-0.1", "at least 0"]),
    "ratio that is no number": (
        ["crvq.critical_ratio=much"],
        ["crvq.critical_ratio=much", "number"],
    ),
    "no bits": (["crvq.codebook_bits=0"], ["crvq.codebook_bits=0", "at least 1"]),
    "too many bits": (["crvq.codebook_bits=17"], ["crvq.codebook_bits=17", "at most 16"]),
    "no group": (["crvq.group_size=0"], ["crvq.group_size=0", "at least 1"]),
    "unknown importance": (
        ["crvq.importance=luck"],
        ["crvq.importance=luck", "error_activation", "random"],
    ),
    "critical channels without order": (
        ["crvq.reorder=none"],
        ["reorder=none", "critical_ratio=0"],
    ),
    "key of another method": (
        ["method=full_precision", "crvq.critical_ratio=0.1"],
        ["crvq.critical_ratio", "method=full_precision"],
    ),
    "sweep over a key of another method": (
        ["-m", "method=full_precision", "crvq.critical_ratio=0.1,0.2"],
        ["crvq.critical_ratio", "method=full_precision"],
    ),
    "one bad job of a sweep": (["-m", "crvq.critical_ratio=0.0,2.0"], ["crvq.critical_ratio=2.0"]),
    "no GPU": (["device=cuda:99"], ["device=cuda:99", "device=cpu"]),
    "no device": (["device=gpu"], ["device=gpu", "cuda"]),
    "missing value": (["model=folder"], ["model.path is not set", "set model.path="]),
    "text without a path": (["eval=file"], ["eval.perplexity.file.path is not set"]),
    "calibration without a repository": (
        ["calibration.source=hub"],
        ["calibration.repo is not set"],
    ),
    "experiment out of the way": (["experiment=../x"], ["experiment=../x"]),
    "budget of a method without a rule": (
        ["method=full_precision", "budget=2"],
        ["budget.bits=2", "gptq"],
    ),
    "comparison with a key that is not there": (
        ["compare_with={lambda: 1}"],
        ["compare_with.lambda"],
    ),
    "comparison with an unknown parameter": (
        ["+compare_with.beams=1"],
        ["compare_with.beams", "did you mean beam?"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work(name, run_py, tmp_path, monkeypatch):
    arguments, parts = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crvq.cli.main.job", lambda *_: pytest.fail("work was begun"))
    outcome = run_py(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error:")
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err, outcome.err
    assert not list(tmp_path.glob("results/*/*"))


@pytest.fixture
def fails(run_tiny, compose_run):
    """Run, expect exit code 1, and give the message, which the record must hold too."""

    def run(*arguments):
        outcome = run_tiny("compare_with=null", *arguments)
        assert outcome.code == 1, outcome
        assert "Traceback" not in outcome.err
        first, _, message = outcome.err.partition("error: ")
        assert first in ("", "crvq, loading local ...\n")
        return message.strip()

    return run


def test_a_model_folder_without_weights(fails, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    assert "no safetensors weights" in fails(f"model.path={tmp_path / 'bare'}")


def test_an_empty_text_file(fails, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n")
    for key in ("calibration", "eval.perplexity.file"):
        message = fails(f"{key}.path={tmp_path / 'empty.txt'}")
        assert message.startswith(f"{key}: ")
        assert "empty.txt" in message
        assert "blank" in message


def test_texts_that_are_too_short(fails, tmp_path):
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    message = fails(f"eval.perplexity.file.path={tmp_path / 'short.txt'}")
    assert "eval.perplexity.file: the text has 3 tokens, but one window needs 64" in message
    message = fails("calibration.samples=100")
    assert "1000 tokens" in message
    assert "set calibration.samples=15 or less" in message


def test_contexts_above_the_models(fails):
    assert "calibration.length=65 is longer than the model's context of 64" in fails(
        "calibration.length=65"
    )
    assert "set eval.perplexity.file.context=64 or less" in fails(
        "eval.perplexity.file.context=128"
    )


def test_text_that_is_in_both(fails, tiny_texts):
    message = fails(
        f"eval.perplexity.file.path={tiny_texts[0]}",
        "calibration.length=32",
        "calibration.samples=30",
    )
    assert "calibration and eval.perplexity.file share text" in message


def test_a_hub_text_without_a_hub(fails, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    message = fails(
        "calibration.path=null", "calibration.source=hub", "calibration.repo=nobody/nothing"
    )
    assert "nobody/nothing" in message
    assert "path" in message


def damaged(tiny_folder, tmp_path, name, change):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_weights_that_are_not_finite_are_named(fails, tiny_folder, tmp_path):
    name = "model.layers.1.self_attn.v_proj.weight"
    folder = damaged(tiny_folder, tmp_path, name, lambda w: w[0].fill_(float("nan")))
    message = fails(f"model.path={folder}")
    assert name in message


def test_activations_that_are_not_finite_are_named_and_done_blocks_kept(
    fails, compose_run, tiny_folder, tmp_path
):
    """Finite weights whose product overflows float32, in the last block."""
    huge = torch.finfo(torch.float32).max / 2
    folder = damaged(
        tiny_folder, tmp_path, "model.layers.2.mlp.up_proj.weight", lambda w: w.fill_(huge)
    )
    message = fails(f"model.path={folder}", "eval=none")
    assert "model.layers.2.mlp.down_proj" in message
    assert "activation_dtype=float32" in message
    checkpoint = run_folder(compose_run(f"model.path={folder}", "eval=none")) / "checkpoint"
    kept = sorted(file.name for file in checkpoint.glob("*.safetensors"))
    assert kept == ["block-000.safetensors", "block-001.safetensors"]


def test_perplexity_that_is_not_finite_names_the_module(fails, tiny_folder, tmp_path):
    huge = torch.finfo(torch.float32).max / 2
    folder = damaged(
        tiny_folder, tmp_path, "model.layers.1.mlp.up_proj.weight", lambda w: w.fill_(huge)
    )
    assert "model.layers.1.mlp" in fails(f"model.path={folder}")
