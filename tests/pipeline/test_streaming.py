"""Streamed runs against runs with the whole model in memory: bit for bit the same."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from crvq.errors import ConfigError, SourceError
from crvq.methods.crvq import CrvqMethod
from crvq.models.activations import HiddenStates
from crvq.models.blocks import find_blocks, run_experts_one_by_one
from crvq.models.digest import model_digest
from crvq.models.placement import Wanted
from crvq.models.streaming import open_streamed
from crvq.models.weight_files import WeightFiles
from crvq.pipeline.run import execute
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record_schema import read_record
from tests.architectures import ARCHITECTURES, MIXTURES, build
from tests.pipeline.test_finetune import END_TO_END

CPU = torch.device("cpu")
CONVERTED = [*MIXTURES, "GPTNeoX"]
"""Whose tensors transformers fuses (experts) or renames (the head) when it loads the model."""


def result(folder):
    """What a run came to: digests of the model, measurements, and losses of layers."""
    record = read_record(folder)
    measured = {key: record[key] for key in ("perplexity", "agreement", "generations")}
    return (
        record["result_digest"],
        measured,
        [(row.name, row.loss, row.bits) for row in read_layers(folder / "layers.csv")],
    )


@pytest.mark.parametrize("placement", ["host", "disk"])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["calibration.stream=full_precision"],
        ["finetune=block", "finetune.samples=8", "finetune.block.epochs=2"],
        ["crvq.codebook_scope=model"],
        ["calibration.target_correction=0.5"],
        [
            "activation_dtype=bfloat16",
            "+eval/measure@eval.agreement=agreement",
            "+eval/measure@eval.generation=generation",
        ],
    ],
    ids=[
        "plain",
        "full-precision stream",
        "block fine-tuning",
        "shared codebooks",
        "correction",
        "bfloat16",
    ],
)
def test_a_streamed_run_is_the_same(finished, placement, more, compose_run, tmp_path):
    whole = finished(*more, "placement=device")
    elsewhere = (f"results_dir={tmp_path / 'streamed'}", f"cache_dir={tmp_path / 'other'}")
    streamed = compose_run(*more, f"placement={placement}", *elsewhere)
    assert result(execute(streamed).folder) == result(whole)
    assert not list((tmp_path / "other" / "hidden_states").glob("*"))


def test_a_killed_streamed_run_resumes_with_the_same_result(
    finished, compose_run, tmp_path, monkeypatch
):
    whole = finished("placement=device")
    config = compose_run("placement=host", f"results_dir={tmp_path / 'streamed'}")
    calls = []

    def killed(method, block, linears):
        calls.append(block)
        if block == 1 and len(calls) == 2:
            raise KeyboardInterrupt
        return quantize_block(method, block, linears)

    quantize_block = CrvqMethod.quantize_block
    monkeypatch.setattr(CrvqMethod, "quantize_block", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(config)
    folder = execute(config).folder
    assert calls == [0, 1, 1, 2]
    assert result(folder) == result(whole)


def test_evaluation_is_added_to_a_finished_run_streamed(
    finished, compose_run, tiny_texts, tmp_path
):
    more = (
        "+eval/dataset@eval.perplexity.again=_base",
        "eval.perplexity.again.source=path",
        f"eval.perplexity.again.path={tiny_texts[1]}",
        "eval.perplexity.again.context=32",
        "eval.perplexity.again.max_windows=2",
    )
    whole = execute(compose_run(*more, f"results_dir={tmp_path / 'whole'}")).folder
    finished()
    added = execute(compose_run(*more, "placement=disk")).folder
    assert read_record(added)["perplexity"] == read_record(whole)["perplexity"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_stream_or_are_refused_by_name(name, tmp_path):
    """The digest covers every weight, buffer and shape; the logits the forward pass."""
    folder = tmp_path / name
    build(name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    run_experts_one_by_one(model)
    files = WeightFiles.of(folder)
    arguments = (files, model.config, torch.float32, CPU, HiddenStates("host", CPU), False)
    if name in CONVERTED:
        with pytest.raises(SourceError, match="only placement=device can read such a checkpoint"):
            open_streamed(*arguments)
        return
    streamed, blocks = open_streamed(*arguments)
    assert model_digest(streamed, blocks) == model_digest(model)
    tokens = torch.arange(24).view(2, 12) % 40
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(streamed(tokens).logits, expected)
        with blocks.computed(tokens, torch.float32, lambda index: None):
            for row in range(2):
                found = streamed(tokens[row : row + 1]).logits[0]
                assert torch.equal(found, model(tokens[row : row + 1]).logits[0])
    assert all(one.is_meta for one in find_blocks(streamed)[1][0].parameters())


def test_end_to_end_training_is_refused_before_the_model_is_read(compose_run, monkeypatch):
    monkeypatch.setattr("crvq.pipeline.context.load_model", None)
    with pytest.raises(ConfigError, match="set placement=device, or finetune=block"):
        execute(compose_run("placement=host", *END_TO_END))


def test_a_file_that_does_not_hold_what_the_index_says_is_named(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "cut")
    index = {"weight_map": {"model.norm.weight": "a.safetensors", "missing": "a.safetensors"}}
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "cut" / "a.safetensors")
    (tmp_path / "cut" / "model.safetensors").unlink()
    (tmp_path / "cut" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"says that a\.safetensors holds missing"):
        WeightFiles.of(tmp_path / "cut")


def test_no_room_on_disk_is_said_before_work(tmp_path, monkeypatch):
    wanted = Wanted("disk", tokens=10**9, folder=tmp_path)
    with pytest.raises(ConfigError, match="use fewer windows"):
        wanted.resolve(10**9, width=4096, device=CPU)


def test_auto_is_the_device_where_the_model_fits(tmp_path, monkeypatch):
    wanted = Wanted("auto", tokens=1000, folder=tmp_path)
    free = {"now": 10**10}
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free["now"]))
    assert wanted.resolve(10**9, width=512, device=CPU) == "device"
    assert wanted.resolve(10**11, width=512, device=CPU) == "host"
    free["now"] = 10**6
    assert wanted.resolve(10**9, width=512, device=CPU) == "disk"
