import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def tiny_llama():
    """Two Llama blocks of random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def model_folder(tiny_llama, tmp_path):
    """The tiny Llama and a tokenizer, as save_pretrained writes them."""
    folder = tmp_path / "tiny-llama"
    tiny_llama.save_pretrained(folder)
    vocabulary = {f"w{index}": index for index in range(32)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w0")), unk_token="w0"
    )
    tokenizer.save_pretrained(folder)
    return folder
