import pytest
import torch

from crvq.config import CalibrationConfig, ModelConfig, PerplexityConfig
from crvq.data.text import load_documents
from crvq.data.tokens import tokenize
from crvq.errors import ConfigError
from crvq.models.load import LoadedModel, load_model
from crvq.models.sampling import sample_tokens


@pytest.fixture
def loaded(tiny_folder, tmp_path):
    return load_model(ModelConfig(name="tiny", source="path", path=str(tiny_folder)), tmp_path)


def config(**values):
    return CalibrationConfig(
        **{"source": "self_generated", "samples": 3, "length": 20, "shuffle_seed": 0, **values}
    )


def test_enough_text_for_the_windows_and_always_the_same(loaded, tmp_path):
    documents = load_documents(config(), tmp_path / "one", loaded)
    tokens = tokenize(documents, loaded.tokenizer)
    assert len(tokens) >= 60
    assert tokens.max() < 96
    assert "itself" in documents.description
    assert load_documents(config(), tmp_path / "two", loaded).texts == documents.texts
    assert load_documents(config(shuffle_seed=1), tmp_path / "one", loaded).texts != documents.texts
    assert len(load_documents(config(max_documents=5), tmp_path / "one", loaded).texts) == 5


def test_it_is_written_once(loaded, tmp_path, monkeypatch):
    first = load_documents(config(), tmp_path, loaded)
    source = "crvq.data.text_sources.self_generated.sample_tokens"
    monkeypatch.setattr(source, lambda *a: pytest.fail("written again"))
    assert load_documents(config(), tmp_path, loaded) == first


def test_damaged_text_is_written_again(loaded, tmp_path):
    first = load_documents(config(), tmp_path, loaded)
    (file,) = (tmp_path / "self_generated").iterdir()
    content = file.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 5)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert load_documents(config(), tmp_path, loaded) == first
        assert file.read_bytes() == content


def test_another_tokenizers_text_is_not_taken(loaded, tmp_path):
    load_documents(config(), tmp_path, loaded)
    loaded.tokenizer.add_special_tokens({"eos_token": "w7"})
    load_documents(config(), tmp_path, loaded)
    assert len(list((tmp_path / "self_generated").iterdir())) == 2


def test_another_models_text_is_not_taken(loaded, tmp_path):
    first = load_documents(config(), tmp_path, loaded)
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(20)
    assert load_documents(config(), tmp_path, loaded).texts != first.texts


def test_not_for_evaluation_and_not_without_a_model(loaded, tmp_path):
    with pytest.raises(ConfigError, match="not to evaluate on"):
        load_documents(PerplexityConfig(source="self_generated"), tmp_path, loaded)
    with pytest.raises(ConfigError, match="needs a model"):
        load_documents(config(), tmp_path)


def test_samples_follow_the_models_distribution(loaded: LoadedModel):
    """How often each token comes first after a prompt, against the model's probabilities."""
    model = loaded.model
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform
        first = torch.full((4000, 1), 7)
        forbidden = torch.tensor([3, 4])
        logits = model(first[:1]).logits[0, -1]
    logits[forbidden] = -torch.inf
    drawn = sample_tokens(model, first, 2, 0, torch.float32, forbidden)[:, 1]
    found = torch.bincount(drawn, minlength=96) / 4000
    expected = logits.softmax(-1)
    assert found[forbidden].sum() == 0
    assert float((found - expected).abs().max()) < 5 * float((expected / 4000).sqrt().max())


def test_keys_and_values_are_used_as_a_whole_pass_would(loaded):
    """Every token's probability is as in a pass over the whole text (greedy by a tiny seed)."""
    texts = sample_tokens(loaded.model, torch.tensor([[5], [9]]), 12, 3, torch.float32)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for place in range(1, 12):
            probabilities = loaded.model(texts[:, :place]).logits[:, -1].softmax(-1)
            again = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            assert torch.equal(again, texts[:, place])
