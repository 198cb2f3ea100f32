import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from crvq.config import ModelConfig
from crvq.errors import ConfigError, SourceError
from crvq.models.complete import check_finite
from crvq.models.load import load_model


def from_path(path, cache, **settings):
    return load_model(ModelConfig(name="tiny", source="path", path=str(path), **settings), cache)


def change_weights(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_folder_is_read_as_it_was_saved(model_folder, tiny_llama, tmp_path):
    loaded = from_path(model_folder, tmp_path)
    for name, tensor in tiny_llama.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.convert_tokens_to_ids("w7") == 7
    assert loaded.description == str(model_folder)


def test_weights_come_in_the_configured_dtype(model_folder, tmp_path):
    model = from_path(model_folder, tmp_path, dtype="bfloat16").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_loading_is_quiet_and_leaves_the_verbosity_as_it_was(model_folder, tmp_path, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    from_path(model_folder, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(model_folder, tmp_path, bad):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(model_folder, lambda tensors: tensors[name][3, 4].fill_(bad))
    with pytest.raises(SourceError, match=name):
        from_path(model_folder, tmp_path)


def test_missing_tensors_are_an_error_and_not_random_numbers(model_folder, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight"
    change_weights(model_folder, lambda tensors: tensors.pop(name))
    with pytest.raises(SourceError, match=f"lack 1 tensors .*{name}"):
        from_path(model_folder, tmp_path)


def test_shards_of_which_the_index_leaves_one_out_are_an_error(tiny_llama, model_folder, tmp_path):
    (model_folder / "model.safetensors").unlink()
    tiny_llama.save_pretrained(model_folder, max_shard_size="8KB")
    index = model_folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    gone = sorted(set(listed["weight_map"].values()))[-1]
    names = [name for name, file in listed["weight_map"].items() if file == gone]
    from_path(model_folder, tmp_path)  # whole
    listed["weight_map"] = {n: f for n, f in listed["weight_map"].items() if f != gone}
    index.write_text(json.dumps(listed))
    with pytest.raises(SourceError, match=f"lack {len(names)} tensors .*{min(names)}"):
        from_path(model_folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight"),
        ({"attention_bias": False}, "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_weights_that_the_config_leaves_out_are_an_error(
    tiny_llama, model_folder, tmp_path, change, left_out
):
    settings = tiny_llama.config.to_dict() | {"attention_bias": "attention_bias" in change}
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(model_folder)
    from_path(model_folder, tmp_path)  # whole
    file = model_folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SourceError, match=f"no place for: .*{left_out}"):
        from_path(model_folder, tmp_path)


def test_tensors_outside_the_blocks_may_be_left_out(model_folder, tmp_path):
    change_weights(model_folder, lambda tensors: tensors.update({"v_head.weight": torch.zeros(3)}))
    assert from_path(model_folder, tmp_path)


def test_weights_of_another_shape_are_an_error(model_folder, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight"
    change_weights(model_folder, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    with pytest.raises(SourceError, match="cannot be read"):
        from_path(model_folder, tmp_path)


def test_a_cut_weights_file_is_an_error(model_folder, tmp_path):
    file = model_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(SourceError, match="cannot be read"):
        from_path(model_folder, tmp_path)


def test_a_missing_tokenizer_is_an_error(model_folder, tmp_path):
    for file in model_folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(SourceError, match="tokenizer"):
        from_path(model_folder, tmp_path)


def test_keys_that_a_source_needs(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.path is not set"):
        load_model(ModelConfig(name="x", source="path"), tmp_path)
    with pytest.raises(ConfigError, match=r"model\.repo is not set"):
        load_model(ModelConfig(name="x", source="hub"), tmp_path)


def test_no_hub_and_no_cache_names_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = ModelConfig(name="x", source="hub", repo="nobody/nothing", revision="v1")
    with pytest.raises(SourceError) as error:
        load_model(config, tmp_path)
    for part in ("model.repo=nobody/nothing", "v1", "model=smollm2-135m", "model.path="):
        assert part in str(error.value)


def test_the_hubs_cache_is_read_offline_and_the_commit_is_told(model_folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = tmp_path / "hub" / "models--nobody--tiny"
    shutil.copytree(model_folder, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_model(ModelConfig(name="x", source="hub", repo="nobody/tiny"), tmp_path)
    assert loaded.description == f"nobody/tiny@{commit}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found(value, dtype):
    linear = torch.nn.Linear(7, 5, dtype=dtype)
    linear.register_buffer("empty", torch.empty(0))
    linear.weight.data[0, 0] = torch.finfo(dtype).max
    check_finite(linear, "here")
    linear.weight.data[4, 3] = value
    with pytest.raises(SourceError, match="weight of here holds NaN or infinity"):
        check_finite(linear, "here")
