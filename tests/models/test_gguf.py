import hashlib
import zipfile

import gguf
import numpy as np
import pytest
import torch

from crvq.config import ModelConfig
from crvq.config.model import WheelPart
from crvq.errors import SourceError
from crvq.models import gguf as module
from crvq.models.gguf import dequantized_folder
from crvq.models.load import load_model

HIDDEN, MIDDLE, HEADS, VOCABULARY = 64, 96, 2, 40


@pytest.fixture
def tiny_gguf(tmp_path):
    """A Llama of one block, its up_proj in 4 bits, and that weight as GGUF means it."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["w", *(str(i) for i in range(VOCABULARY - 1))])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        "output": (VOCABULARY, HIDDEN),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (MIDDLE, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, MIDDLE),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    kind = gguf.GGMLQuantizationType.Q4_1
    packed = gguf.quantize(random.standard_normal((MIDDLE, HIDDEN)).astype(np.float32), kind)
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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


def test_another_file_of_the_same_name_is_converted_anew(tiny_gguf, tmp_path, monkeypatch):
    path, _ = tiny_gguf
    first = dequantized_folder(path, torch.float32, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(module, "_convert", lambda gguf, dtype, folder: (folder / "new").touch())
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
