import pytest
import torch

from crvq.evaluation.hidden_states import split_head


def tokens():
    return torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(1))


def test_heads_give_the_models_own_logits_slice_by_slice(model):
    split = split_head(model, tokens())
    states = split.hidden_states(tokens())[0]
    slices = torch.cat([split.head(states[start : start + 7]) for start in range(0, 24, 7)])
    torch.testing.assert_close(slices, model(tokens()).logits[0])


def test_the_plain_head_is_taken_unless_the_model_changes_its_logits(model):
    split = split_head(model, tokens())
    changes = type(model).__name__ in ("Gemma2ForCausalLM", "CohereForCausalLM")
    assert (split.head is model.get_output_embeddings()) == (not changes)


def test_the_model_is_left_as_it_was(model):
    before = model(tokens()).logits
    split = split_head(model, tokens())
    split.head(split.hidden_states(tokens())[0])
    assert "forward" not in vars(model.base_model)
    assert torch.equal(model(tokens()).logits, before)


@pytest.mark.parametrize("cap", [30.0, 50.0])
def test_even_a_cap_that_hardly_shows_is_noticed(llama, cap):
    plain = type(llama).forward

    def capped(*args, **options):
        output = plain(llama, *args, **options)
        output.logits = torch.tanh(output.logits * 1e-2 / cap) * cap * 1e2
        return output

    assert split_head(llama, tokens()).head is llama.lm_head
    llama.forward = capped
    split = split_head(llama, tokens())
    assert split.head is not llama.lm_head
    logits = split.head(split.hidden_states(tokens())[0])
    torch.testing.assert_close(logits, capped(input_ids=tokens()).logits[0])


def test_a_head_that_cannot_be_found_is_the_model_itself(llama, monkeypatch):
    monkeypatch.setattr(llama, "get_output_embeddings", lambda: None)
    split = split_head(llama, tokens())
    logits = split.head(split.hidden_states(tokens())[0])
    torch.testing.assert_close(logits, llama(tokens()).logits[0])


def test_logits_that_hidden_states_do_not_decide_are_not_split(llama):
    plain = type(llama).forward

    def biased(*args, **options):
        output = plain(llama, *args, **options)
        output.logits = output.logits + options["input_ids"][..., None]
        return output

    llama.forward = biased
    assert split_head(llama, tokens()) is None
