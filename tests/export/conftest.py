"""A tiny Llama with random quantized weights, and its folder."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from crvq.export import save_quantized
from tests.export.models import random_weights


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """Model, tokenizer and weights."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    return model, AutoTokenizer.from_pretrained(tiny_folder), random_weights(model)


@pytest.fixture(scope="session")
def packed_folder(tiny, tmp_path_factory):
    """The folder that `save_quantized` writes of it; not to be changed."""
    return save_quantized(*tiny, tmp_path_factory.mktemp("packed") / "tiny", {"model": "tiny"})
