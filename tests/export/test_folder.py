"""What is in an exported folder, against the bits of its weights and the model's own tensors."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crvq.checkpoint import BlockStore
from crvq.errors import CheckpointError, ConfigError
from crvq.export import export_run, load, save_quantized
from crvq.export.folder import least_loss_dtype
from crvq.export.runs import stored_weights
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from tests.export.models import decoded


def stored(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def size(tensors):
    return sum(one.numel() * one.element_size() for one in tensors)


def test_the_tensors_are_the_counted_bits_and_everything_else_in_16_bits(tiny, packed_folder):
    model, _, weights = tiny
    tensors = stored(packed_folder)
    packed = {k: v for k, v in tensors.items() if k.endswith(".packed") or "crvq_shared" in k}
    assert size(packed.values()) * 8 == pytest.approx(sum(w.bits().total for w in weights.values()))
    inside = sum(model.get_submodule(name).weight.numel() for name in weights)
    rest = sum(one.numel() for one in model.parameters()) - inside
    assert size(tensors.values()) - size(packed.values()) == 2 * rest
    assert len([name for name in tensors if "crvq_shared" in name]) == 1
    assert "lm_head.weight" not in tensors  # tied


def test_a_run_weighs_what_its_record_says(compose_run, tmp_path):
    folder = run(compose_run())
    record = read_record(folder)
    out = export_run(folder, tmp_path / "out")
    tensors = stored(out)
    packed = size(v for k, v in tensors.items() if k.endswith(".packed") or "crvq_shared" in k)
    assert packed == record["packed_bytes"] == round(sum(
        record["bits"][part] for part in ("codes", "codebooks", "scales", "permutation", "other")
    ) / 8)  # fmt: skip
    text = (out / "README.md").read_text()
    assert "import crvq" in text.split("\n")[5]
    assert record["run_id"] in text
    assert "model=folder" in text
    assert "crvq.codebook_bits=4" in text
    assert f"{record['perplexity']['file']['quantized']:.2f} quantized" in text
    dense = export_run(folder, tmp_path / "dense", dense=True)
    plain = AutoModelForCausalLM.from_pretrained(dense)
    assert not hasattr(plain.config, "quantization_config")
    ids = torch.arange(1, 60)[None]
    with torch.no_grad():
        found, expected = load(out)(ids).logits, plain.float()(ids).logits
    assert (found - expected).norm() < 2e-3 * expected.norm()


def test_trained_norms_are_written(tiny, tmp_path):
    model, weights = copy.deepcopy(tiny[0]), tiny[2]
    store, _ = BlockStore.open(tmp_path / "store", {})
    norm = torch.linspace(0.5, 2, 32).half().float()
    for block in range(3):
        own = {
            k.split(".", 3)[3]: w
            for k, w in weights.items()
            if k.startswith(f"model.layers.{block}.")
        }
        store.save_block(block, own, [], {"input_layernorm.weight": norm + block})
    store.save_outer({"model.norm.weight": norm * 2})
    found = stored_weights(model, BlockStore.read(tmp_path / "store"))
    assert found.keys() == weights.keys()
    tensors = stored(save_quantized(model, None, found, tmp_path / "out"))
    assert torch.equal(tensors["model.layers.1.input_layernorm.weight"], (norm + 1).half())
    assert torch.equal(tensors["model.norm.weight"].float(), norm * 2)
    name = "model.layers.2.mlp.down_proj"
    dense = load(tmp_path / "out").get_submodule(name).packed.decode(slice(0, 4), torch.float32)
    expected = weights[name]
    assert torch.equal(dense[:, expected.order.argsort()][:, :44], expected.dequantize())


def test_a_dense_folder_holds_the_dequantized_weights(tiny, tmp_path):
    model, tokenizer, weights = tiny
    before = {name: one.clone() for name, one in model.state_dict().items()}
    out = save_quantized(model, tokenizer, weights, tmp_path / "out", dense=True)
    tensors = stored(out)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float16"
    for name, weight in weights.items():
        assert torch.equal(tensors[f"{name}.weight"], weight.dequantize().half())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "expected"),
    {
        "bfloat16 before": ((1e-4 * torch.randn(64)).bfloat16().float(), "bfloat16"),
        "float32": (torch.randn(64), "float16"),
        "beyond float16": (torch.tensor([1e5, 1.0]), "bfloat16"),
        "below float16": (torch.full((8,), 1e-9), "bfloat16"),
        "exact in both": (torch.ones(8), "float16"),
    }.values(),
)
def test_the_16_bit_type_that_loses_least_is_chosen(values, expected):
    assert least_loss_dtype({"one": values, "number": torch.arange(3)}) == expected


def test_large_folders_are_sharded(tiny, tmp_path, packed_folder):
    out = save_quantized(*tiny, tmp_path / "out", max_shard=4000)
    assert len(list(out.glob("*.safetensors"))) > 3
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(load(out)(ids).logits, load(packed_folder)(ids).logits)


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(tiny, tmp_path):
    model, tokenizer, weights = tiny
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        save_quantized(model, tokenizer, weights, tmp_path / "full")
    with pytest.raises(ConfigError, match=r"model\.nothing is None in the model"):
        save_quantized(model, tokenizer, {"model.nothing": weights[min(weights)]}, tmp_path / "no")
    with pytest.raises(TypeError):
        save_quantized(model, tokenizer, weights, tmp_path / "no", {"model": object()})
    assert [one.name for one in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    save_quantized(model, tokenizer, weights, tmp_path / "empty")


def test_layers_that_disagree_on_a_shared_codebook_are_refused(tiny, tmp_path):
    model, tokenizer, weights = tiny
    name = "model.layers.1.mlp.up_proj"
    mixed = {**weights, name: replace(weights[name], codebook_set="block-0")}
    with pytest.raises(CheckpointError, match="differs from that of 'block-0'"):
        save_quantized(model, tokenizer, mixed, tmp_path / "out")


def test_only_finished_runs_that_quantized_are_exported(compose_run, tmp_path):
    folder = run(compose_run("method=full_precision"))
    with pytest.raises(ConfigError, match="quantizes nothing"):
        export_run(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no record\.json"):
        export_run(tmp_path, tmp_path / "out")


def test_logits_are_those_of_decoded_weights(tiny, packed_folder):
    model, _, weights = tiny
    dense = decoded(model, weights, torch.float16)
    ids = torch.arange(60)[None]
    with torch.no_grad():
        found, expected = load(packed_folder)(ids).logits, dense(ids).logits
    assert (found - expected).norm() < 1e-5 * expected.norm()
