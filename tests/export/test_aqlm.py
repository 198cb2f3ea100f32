"""Checkpoints in AQLM's layout, made with the aqlm package's own module where it is installed."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import crvq
from crvq.cli.use_model import main
from crvq.errors import CheckpointError
from crvq.export.aqlm import import_aqlm
from crvq.inference import QuantizedLinear

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


PARTS = ("codes", "codebooks", "scales")


def dense_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).half().float().eval()


def write(folder, books, bits, d=8):
    """Write a checkpoint, and return the model with the same weights dequantized by hand."""
    model = dense_model()
    tensors = {k: v.half() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    generator = torch.Generator().manual_seed(1)
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] not in NAMES:
            continue
        out, columns = module.weight.shape
        indices = torch.randint(0, 1 << bits, (out, columns // d, books), generator=generator)
        books_of = torch.randn(books, 1 << bits, 1, d, generator=generator).half() * 0.1
        scales = (torch.rand(out, 1, 1, 1, generator=generator) + 0.5).half()
        dense = sum(books_of[k, indices[:, :, k], 0].float() for k in range(books))
        module.weight.data = (dense * scales[:, :, 0].float()).flatten(1)
        signed = torch.where(indices >= 1 << (bits - 1), indices - (1 << bits), indices)
        del tensors[f"{name}.weight"]
        tensors[f"{name}.codes"] = signed.to(torch.int8 if bits <= 8 else torch.int16)
        tensors[f"{name}.codebooks"], tensors[f"{name}.scales"] = books_of, scales
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {
        "quantization_config": {
            "quant_method": "aqlm",
            "in_group_size": d,
            "out_group_size": 1,
            "num_codebooks": books,
            "nbits_per_codebook": bits,
        }
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model, tensors


@pytest.mark.parametrize(("books", "bits"), [(1, 8), (2, 8), (1, 16), (1, 12)])
def test_an_imported_checkpoint_gives_the_logits_of_its_dense_weights(tmp_path, books, bits):
    expected, _ = write(tmp_path / "aqlm", books, bits)
    assert main(["import-aqlm", str(tmp_path / "aqlm"), str(tmp_path / "out")]) == 0
    model = crvq.load(tmp_path / "out", dtype="float32")
    layer = model.model.layers[1].mlp.up_proj
    assert isinstance(layer, QuantizedLinear)
    assert layer.bits == [bits] * books
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected(tokens).logits, atol=1e-3, rtol=0)
        # One token at a time goes through another kernel.
        torch.testing.assert_close(
            model(tokens[:, :1]).logits, expected(tokens[:, :1]).logits, atol=1e-3, rtol=0
        )


@pytest.mark.parametrize(("books", "bits"), [(1, 8), (2, 8), (1, 16)])
def test_layers_compute_what_the_aqlm_package_computes(tmp_path, books, bits):
    aqlm = pytest.importorskip("aqlm")
    _, tensors = write(tmp_path / "aqlm", books, bits)
    import_aqlm(tmp_path / "aqlm", tmp_path / "out")
    model = crvq.load(tmp_path / "out", dtype="float32")
    name = "model.layers.0.mlp.down_proj"
    peer = aqlm.QuantizedLinear(96, 64, 8, 1, books, bits, bias=False, dtype=torch.float32)
    peer.load_state_dict({part: tensors[f"{name}.{part}"] for part in PARTS})
    # Its decoding, not its numba kernel: there threads add into one output without a lock.
    codes = aqlm.utils.unpack_int_data(peer.codes, bits)
    dense = aqlm.utils._dequantize_weight(codes, peer.codebooks, peer.scales)
    x = torch.randn(3, 96)
    with torch.no_grad():
        expected = x @ dense.T
        torch.testing.assert_close(model.get_submodule(name)(x), expected, atol=1e-4, rtol=1e-4)


def spoil(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "is 'gptq', not 'aqlm'"),
        ({"out_group_size": 2}, "groups of out features are not supported"),
        ({"nbits_per_codebook": 9}, r"codebooks has shape .* config.json says"),
        ({"num_codebooks": 2}, r"codes has shape .* config.json says"),
        ({"in_group_size": 10**9}, "is 1000000000, not 1 to 32"),
    ],
)
def test_what_contradicts_the_configuration_is_refused(tmp_path, changes, message):
    write(tmp_path / "aqlm", 1, 8)
    spoil(tmp_path / "aqlm", **changes)
    with pytest.raises(CheckpointError, match=message):
        import_aqlm(tmp_path / "aqlm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_missing_and_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "aqlm"
    write(folder, 1, 8)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        import_aqlm(folder, tmp_path / "out")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is pickled"):
        import_aqlm(folder, tmp_path / "out")


def test_a_tensor_that_the_model_needs_is_named(tmp_path):
    _, tensors = write(tmp_path / "aqlm", 1, 8)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "aqlm" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the tensors model.norm.weight"):
        import_aqlm(tmp_path / "aqlm", tmp_path / "out")
