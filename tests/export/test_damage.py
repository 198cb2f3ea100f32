"""Folders that must be refused: one clear error each, before anything is loaded."""

import json
import pickle
import resource
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crvq.errors import CheckpointError
from crvq.export import load
from crvq.export.registration import register
from crvq.models.digest import tensor_digest

DOWN = "model.layers.1.mlp.down_proj"
PACKED = f"{DOWN}.packed"


def edit(folder, change):
    """Change config.json in place."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values, values["quantization_config"])
    path.write_text(json.dumps(values))


def rewrite(folder, change, digests=True):
    """Change the tensors, and their digests so that only later checks can notice."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    if digests:
        found = {name: tensor_digest(one.reshape(-1)) for name, one in tensors.items()}
        edit(folder, lambda _, q: q.update(digests=found))


def newer(folder):
    edit(folder, lambda _, q: q.update(format_version=2))


def other_method(folder):
    edit(folder, lambda _, q: q.update(quant_method="aqlm"))


def no_method(folder):
    edit(folder, lambda c, _: c.pop("quantization_config"))


def unknown_key(folder):
    edit(folder, lambda _, q: q.update(surprise=1))


def unknown_format(folder):
    edit(folder, lambda _, q: q["linears"][DOWN].update(format="magic"))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flipped(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def missing_tensor(folder):
    rewrite(folder, lambda t: t.pop("model.norm.weight"))


def missing_codes(folder):
    rewrite(folder, lambda t: t.pop(PACKED))


def unexpected_tensor(folder):
    rewrite(folder, lambda t: t.update(surprise=torch.zeros(3)))


def other_shape(folder):
    rewrite(folder, lambda t: t.update({PACKED: t[PACKED][:-1].clone()}))


def other_type(folder):
    rewrite(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}))


def code_out_of_range(folder):
    # Entries are fewer than 2**bits, so that all bits set are no code.
    rewrite(folder, lambda t: t[PACKED][64:].fill_(255))


def not_finite(folder):
    rewrite(folder, lambda t: t[PACKED][:2].copy_(torch.tensor([0, 0x7C], dtype=torch.uint8)))


def config_of_another_shape(folder):
    edit(folder, lambda c, _: c.update(intermediate_size=48))


def config_without_a_block(folder):
    edit(folder, lambda c, _: c.update(num_hidden_layers=2))


def layer_without_header(folder):
    edit(folder, lambda _, q: q["linears"].pop(DOWN))


def bomb_in_header(folder):
    edit(folder, lambda _, q: q["linears"][DOWN].update(out_features=2**31 - 1))


def bomb_of_blocks(folder):
    edit(folder, lambda c, _: c.update(num_hidden_layers=10**9))


def bomb_in_config(folder):
    edit(folder, lambda c, _: c.update(intermediate_size=10**12, hidden_size=10**9))


def bomb_in_safetensors(folder):
    path = folder / "model.safetensors"
    header = {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def no_config(folder):
    (folder / "config.json").unlink()


def config_not_json(folder):
    (folder / "config.json").write_text("{" * 100_000)


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"a": 1}, file)
    no_weights(folder)


def shard_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def own_code_only(folder):
    edit(folder, lambda c, _: c.update(model_type="something_new"))


CASES = {
    newer: "format_version 2; this version of crvq reads up to 1",
    other_method: "quantized by 'aqlm', not by crvq",
    no_method: "no quantization_config",
    unknown_key: "surprise",
    unknown_format: "'magic' is not known",
    cut: "damaged, cut",
    flipped: "does not have the SHA-256",
    missing_tensor: "lack 1 tensors: 'model.norm.weight'",
    missing_codes: "lack 1 tensors: 'model.layers.1.mlp.down_proj.packed'",
    unexpected_tensor: "'surprise': the model has no place",
    other_shape: "while config.json says U8",
    other_type: r"F32 \(32,\), while config.json says F16",
    code_out_of_range: "'model.layers.1.mlp.down_proj'.*the largest is 28",
    not_finite: "NaN or infinity",
    config_of_another_shape: r"is \(32, 48\) in the model",
    config_without_a_block: "'model.layers.2.*' is missing in the model",
    layer_without_header: "no place for this tensor",
    bomb_in_header: "out_features|in the model",
    bomb_of_blocks: "num_hidden_layers=1000000000, but the folder has",
    bomb_in_config: "cannot be loaded|in the model",
    bomb_in_safetensors: "damaged, cut",
    no_config: "has no config.json",
    config_not_json: "cannot be read",
    no_weights: "has no file 'model.safetensors'",
    pickled: "has no file 'model.safetensors'",
    shard_elsewhere: r"has no file '\.\./model\.safetensors'",
    own_code_only: "cannot be loaded",
}


@pytest.fixture
def folder(packed_folder, tmp_path):
    return shutil.copytree(packed_folder, tmp_path / "folder")


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_crvq_load_refuses(damage, folder):
    damage(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=CASES[damage]) as caught:
        load(folder)
    assert len(str(caught.value)) < 1000
    assert str(folder) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


WITHIN_TRANSFORMERS = (
    newer, cut, flipped, missing_tensor, missing_codes, unexpected_tensor, other_shape,
    code_out_of_range, not_finite, config_of_another_shape, layer_without_header, bomb_in_header,
)  # fmt: skip


@pytest.mark.parametrize("damage", WITHIN_TRANSFORMERS, ids=lambda damage: damage.__name__)
def test_transformers_refuses_as_well(damage, folder):
    register()
    damage(folder)
    with pytest.raises(CheckpointError, match=CASES[damage]):
        AutoModelForCausalLM.from_pretrained(folder)


def test_no_code_of_the_folder_runs(folder):
    (folder / "modeling_crvq.py").write_text("raise SystemExit('code from the folder ran')")
    register()
    load(folder)
    AutoModelForCausalLM.from_pretrained(folder)


def test_an_undamaged_copy_loads(folder):
    load(folder)


def test_something_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        load(tmp_path / "nothing")
