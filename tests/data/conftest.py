import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer():
    """One token a letter or newline, and a BOS (id 0) before the text, as Llama's has."""
    vocabulary = {"<s>": 0, "<unk>": 1, "\n": 2, " ": 3} | {
        letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 4)
    }
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>", model_max_length=4
    )
