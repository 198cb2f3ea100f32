"""Loading a folder: the same numbers as in process, through crvq.load and through transformers."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import crvq
from crvq.errors import CheckpointError, ConfigError
from crvq.export import load, save_quantized
from crvq.export.runs import save_loaded
from crvq.inference import QuantizedLinear
from crvq.inference.head import read_head_in_16_bits
from crvq.inference.model import linear_bytes, replace_linears
from crvq.methods.baseline_params import AqlmParams
from crvq.weights.additive import AdditiveWeight
from tests.architectures import build
from tests.export.models import decoded, random_weights

METHODS = {"aqlm": AqlmParams(codebooks=2, codebook_bits=4, max_rounds=1)}
IDS = torch.arange(48)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS.to(model.device)).logits


@pytest.fixture
def registered():
    from crvq.export.registration import register

    register()


def test_a_fresh_process_gives_the_same_logits_bit_for_bit(tiny, packed_folder, fresh, tmp_path):
    model, _, weights = tiny
    in_process = decoded(model, weights, torch.float16)
    replace_linears(in_process, weights)
    read_head_in_16_bits(in_process)  # as `load` does: one token's logits add up in another order
    program = (
        "import sys, torch; from crvq.export import load; "
        "from safetensors.torch import save_file\n"
        "torch.set_num_threads(int(sys.argv[3])); m = load(sys.argv[1])\n"
        "ids = torch.arange(48)[None]\n"
        "with torch.no_grad(): found = {'all': m(ids).logits, 'one': m(ids[:, :1]).logits}\n"
        "save_file(found, sys.argv[2])"
    )
    out = tmp_path / "logits.safetensors"
    threads = str(torch.get_num_threads())
    ended = fresh.run(program, packed_folder, out, threads)
    assert ended.returncode == 0, ended.stderr
    found = load_file(out)
    with torch.no_grad():
        assert torch.equal(found["all"], in_process(IDS).logits)
        assert torch.equal(found["one"], in_process(IDS[:, :1]).logits)


def test_a_loaded_model_is_written_again_as_the_same_bytes(packed_folder, tmp_path):
    again = save_loaded(load(packed_folder), tmp_path / "again")
    names = {path.name for path in packed_folder.iterdir()}
    assert names == {path.name for path in again.iterdir()}
    for name in names:
        assert (again / name).read_bytes() == (packed_folder / name).read_bytes(), name
    with pytest.raises(ConfigError, match="was not loaded from"):
        save_loaded(nn.Linear(2, 2), tmp_path / "no")


def test_save_pretrained_writes_what_can_be_loaded(packed_folder, tmp_path):
    model = load(packed_folder)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again")), logits(model))
    size = (tmp_path / "again" / "model.safetensors").stat().st_size
    assert size == pytest.approx((packed_folder / "model.safetensors").stat().st_size, rel=0.01)


def test_no_dense_weight_is_made(packed_folder, monkeypatch):
    def refused(self):
        raise AssertionError("a weight was dequantized")

    monkeypatch.setattr(AdditiveWeight, "dequantize", refused)
    model = load(packed_folder)
    linears = [one for one in model.model.modules() if isinstance(one, QuantizedLinear)]
    assert len(linears) == 21
    assert not any(isinstance(one, nn.Linear) for one in model.model.modules())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert isinstance(model.tokenizer("w1 w2")["input_ids"], list)
    # Shared codebooks are held once, and so are equal permutations.
    first = model.model.layers[0]
    assert first.mlp.up_proj.codebook_0 is first.self_attn.q_proj.codebook_0
    assert first.self_attn.q_proj.reorder is first.self_attn.k_proj.reorder
    assert linear_bytes(model) < 4 * 21 * 44 * 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "auto"])
@pytest.mark.parametrize("device_map", [None, "cpu", "auto", {"": "cpu"}])
def test_transformers_loads_it(dtype, device_map, packed_folder, registered):
    model = AutoModelForCausalLM.from_pretrained(packed_folder, dtype=dtype, device_map=device_map)
    expected = logits(load(packed_folder))
    tolerance = 2e-2 if dtype in (torch.bfloat16, torch.float16) else 0
    assert model.dtype == (torch.float32 if dtype == "auto" else dtype)
    assert (logits(model).float() - expected).norm() <= tolerance * expected.norm()
    assert model.model.layers[0].mlp.up_proj.scales.dtype == torch.float16
    assert model.is_quantized


def test_layers_on_several_devices(packed_folder, registered):
    # The meta device stands for a second accelerator: nothing is computed, places are checked.
    with pytest.raises(CheckpointError, match="offloaded to disk"):
        AutoModelForCausalLM.from_pretrained(
            packed_folder, device_map={"model": "cpu", "lm_head": "disk"}, offload_folder="unused"
        )


@pytest.mark.parametrize("name", ["GPT2", "Qwen2", "OPT", "Gemma2", "GPTNeoX", "Qwen3"])
def test_architectures(name, tmp_path, registered):
    model = build(name).eval()
    weights = random_weights(model)
    out = save_quantized(model, None, weights, tmp_path / "out")
    found, dense = load(out), decoded(model, weights, torch.float16)
    assert found.tokenizer is None
    expected = logits(dense)
    assert (logits(found) - expected).norm() < 1e-4 * expected.norm()
    trusted = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert torch.equal(logits(trusted), logits(found))
    again = save_loaded(found, tmp_path / "again")
    for path in out.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("method", ["rtn", "gptq", "gptvq", "billm", "pb_llm", "aqlm"])
def test_every_method_of_the_python_api(method, tiny_folder, tiny_texts, tmp_path, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    params = METHODS.get(method, method)
    text = tiny_texts[0].read_text()
    result = crvq.quantize(
        model, tokenizer, params, text=text, samples=2, length=32, progress=False
    )
    out = result.save(tmp_path / "out")
    found = load(out)
    assert ("no packed kernels" in caplog.text) == (method != "aqlm")
    # The API leaves dequantized weights in the model; a folder rounds the others to 16 bits.
    for parameter in (model.model.embed_tokens.weight, model.model.norm.weight):
        parameter.data = parameter.data.half().float()
    expected = logits(model)
    assert (logits(found) - expected).norm() < 1e-4 * expected.norm()
    packed = result.record["packed_bytes"]
    index = {name for name in stored_names(out) if name.endswith(".packed")}
    assert len(index) == 21
    assert packed == sum(one.nelement() for one in tensors_of(out, index))
    if method != "aqlm":
        assert isinstance(found.model.layers[0].mlp.up_proj, nn.Linear)
        with pytest.raises(CheckpointError, match="runs dequantized"):
            save_loaded(found, tmp_path / "again")


def stored_names(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


def tensors_of(folder, names):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return [file.get_tensor(name) for name in names]


def test_the_tokenizer_is_that_of_the_folder(packed_folder):
    expected = AutoTokenizer.from_pretrained(packed_folder)("w3 w5")["input_ids"]
    assert load(packed_folder).tokenizer("w3 w5")["input_ids"] == expected
    assert json.loads((packed_folder / "config.json").read_text())["dtype"] == "float32"
