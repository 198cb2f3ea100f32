import math

import pytest
import torch

from crvq.config import AgreementConfig, EvalConfig, PerplexityConfig
from crvq.errors import ConfigError
from crvq.evaluation.kv_cache import quantized_cache
from crvq.evaluation.perplexity import perplexity
from crvq.methods import create_method
from crvq.models.load import LoadedModel
from crvq.pipeline.context import EvaluationText, RunContext, RunTexts
from crvq.pipeline.evaluate import Evaluation
from crvq.tracking.events import RunListener
from crvq.tracking.record import RunRecord
from tests.architectures import build, tokens


class Stages(RunListener):
    """Counts steps by stage."""

    def __init__(self):
        self.steps, self.messages = {}, []

    def stage_advanced(self, stage, note=""):
        self.steps[stage] = self.steps.get(stage, 0) + 1

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def make_context(tmp_path, compose_run):
    """Builds a context; everything that full precision's results depend on may change."""

    def make(model=None, *, weights="a", seed=1, overlap=0, dtype=torch.float32, cache="cache",
             method="crvq"):  # fmt: skip
        config = compose_run("eval=none", *([] if method == "crvq" else [f"method={method}"]))
        record = RunRecord.start(tmp_path / "run", config, "r1", fresh=True)
        texts = {"words": EvaluationText(tokens(3, 16, seed), 9, "some words", overlap, 90)}
        loaded = LoadedModel(model or build("Llama"), None, "random")
        method = create_method(config.method, config.method_params, config.seed)
        context = RunContext(
            config, loaded, RunTexts(None, "none", texts), method, [], dtype, tmp_path / cache
        )
        context.weights = weights
        context.open(record, Stages(), tmp_path / "run")
        return context

    return make


WORDS = EvalConfig(perplexity={"words": PerplexityConfig(context=16)})


def entry(make_context):
    return make_context.results.data["perplexity"]["words"]


def test_it_is_the_mean_over_predicted_tokens(make_context):
    found = make_context()
    Evaluation(WORDS, found).quantized()
    windows = found.evaluation_texts["words"].windows
    with torch.no_grad():
        logs = found.model(windows).logits[:, :-1].double().log_softmax(-1)
    nll = -logs.gather(2, windows[:, 1:, None]).mean().item()
    assert math.isclose(entry(found)["quantized"], math.exp(nll), rel_tol=1e-5)
    # 45 tokens scored, which stand for 90 bytes.
    bits = nll / math.log(2) * 45 / 90
    assert math.isclose(entry(found)["quantized_bits_per_byte"], bits, rel_tol=1e-5)
    assert (entry(found)["tokens"], entry(found)["scored_tokens"]) == (48, 45)
    assert entry(found)["full_precision"] is None
    assert found.listener.steps == {"perplexity of quantized on words": 3}


def test_overlap_counts_each_token_once(make_context):
    found = make_context(overlap=12)
    Evaluation(WORDS, found).quantized()
    assert (entry(found)["tokens"], entry(found)["scored_tokens"]) == (16 + 2 * 4, 15 + 2 * 4)


def test_a_known_one_is_looked_up_and_anything_else_is_measured(make_context):
    first = make_context()
    Evaluation(WORDS, first).full_precision()
    assert first.listener.steps
    again = make_context()
    Evaluation(WORDS, again).full_precision()
    assert entry(again)["full_precision"] == entry(first)["full_precision"]
    assert not again.listener.steps
    assert "known from an earlier run" in again.listener.messages[0]
    changes = {"weights": "b", "seed": 2, "overlap": 3, "dtype": torch.bfloat16, "cache": "other"}
    for name, value in changes.items():
        other = make_context(**{name: value})
        Evaluation(WORDS, other).full_precision()
        assert other.listener.steps, name


@pytest.mark.parametrize("damage", ["{", "[]", '{"perplexity": "x"}', "{}"])
def test_a_damaged_entry_is_measured_again(make_context, tmp_path, damage):
    first = make_context()
    Evaluation(WORDS, first).full_precision()
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text(damage)
    again = make_context()
    Evaluation(WORDS, again).full_precision()
    assert entry(again)["full_precision"] == entry(first)["full_precision"]
    assert again.listener.steps


def test_infinity_is_no_reason_to_fail(make_context):
    model = build("Llama")
    model.lm_head.weight.zero_()
    model.lm_head.weight[0] = 1e30
    found = make_context(model)
    Evaluation(WORDS, found).full_precision()
    assert entry(found)["full_precision"] == math.inf
    assert entry(found)["full_precision_bits_per_byte"] == math.inf


def test_agreement_compares_with_the_model_as_it_was(make_context):
    config = WORDS.model_copy(update={"agreement": AgreementConfig(max_windows=2)})
    found = make_context()
    windows = found.evaluation_texts["words"].windows[:2]
    with torch.no_grad():
        before = found.model(windows).logits[:, :-1].double().log_softmax(-1)
    evaluation = Evaluation(config, found)
    evaluation.full_precision()
    assert found.results.data["agreement"] == {}
    for parameter in found.model.model.layers.parameters():
        parameter.mul_(0.8)
    with torch.no_grad():
        after = found.model(windows).logits[:, :-1].double().log_softmax(-1)
    evaluation.quantized()
    result = found.results.data["agreement"]["words"]
    expected = (before.exp() * (before - after)).sum(-1).mean().item()
    assert math.isclose(result["kl_divergence"], expected, rel_tol=1e-4)
    assert (result["windows"], result["tokens"]) == (2, 30)


def test_without_quantization_nothing_is_kept_for_agreement(make_context):
    config = WORDS.model_copy(update={"agreement": AgreementConfig()})
    found = make_context(method="full_precision")
    Evaluation(config, found).full_precision()
    assert list(found.listener.steps) == ["perplexity of full precision on words"]


CACHED = WORDS.model_copy(update={"kv_cache": "rotatekv2"})


def test_a_quantized_cache_is_measured_next_to_the_plain_one(make_context):
    found = make_context()
    evaluation = Evaluation(CACHED, found)
    evaluation.full_precision()
    evaluation.quantized()
    cached = found.results.data["kv_cache"]["words"]
    with quantized_cache(found.model):
        expected = perplexity(found.model, found.evaluation_texts["words"].windows, found.device)
    assert cached["quantized"] == cached["full_precision"] == expected.perplexity
    assert cached["recovery"] == entry(found)["quantized"] / expected.perplexity
    again = make_context()
    Evaluation(CACHED, again).full_precision()
    assert not again.listener.steps
    assert again.results.data["kv_cache"]["words"]["full_precision"] == expected.perplexity


def test_a_cache_needs_projections_of_its_own(make_context):
    with pytest.raises(ConfigError, match=r"eval\.kv_cache=rotatekv2: a GPT2LMHeadModel has no"):
        Evaluation(CACHED, make_context(build("GPT2")))


def test_none_is_no_cache_and_a_cache_needs_text():
    assert EvalConfig(kv_cache="none").kv_cache is None
    with pytest.raises(ValueError, match="kv_cache=rotatekv2 needs text"):
        EvalConfig(kv_cache="rotatekv2")
