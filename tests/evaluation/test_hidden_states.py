import pytest
import torch

from crvq.evaluation.hidden_states import split_head


def tokens():
    return torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(1))


def test_models_that_change_their_logits_are_not_split(model):
    split = split_head(model, tokens())
    changes = type(model).__name__ in ("Gemma2ForCausalLM", "CohereForCausalLM")
    assert (split is None) == changes
    if split is not None:
        logits = split.head(split.hidden_states(tokens()))
        torch.testing.assert_close(logits, model(tokens()).logits)


@pytest.mark.parametrize("cap", [30.0, 50.0])
def test_even_a_cap_that_hardly_shows_is_noticed(llama, cap):
    plain = type(llama).forward

    def capped(*args, **options):
        output = plain(llama, *args, **options)
        output.logits = torch.tanh(output.logits * 1e-2 / cap) * cap * 1e2
        return output

    assert split_head(llama, tokens()) is not None
    llama.forward = capped
    assert split_head(llama, tokens()) is None


def test_a_head_that_cannot_be_found_is_not_split(llama, monkeypatch):
    monkeypatch.setattr(llama, "get_output_embeddings", lambda: None)
    assert split_head(llama, tokens()) is None
