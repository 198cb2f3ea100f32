import math

import pytest
import torch

from crvq.config import AgreementConfig, EvalConfig, PerplexityConfig
from crvq.models.load import LoadedModel
from crvq.pipeline.measure import Evaluation
from crvq.pipeline.subject import Subject
from crvq.pipeline.texts import EvaluationText
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
def subject(tmp_path, compose_run):
    """Builds what is measured on; everything that full precision's results depend on may change."""

    def make(model=None, *, weights="a", seed=1, overlap=0, dtype=torch.float32, cache="cache"):
        config = compose_run("eval=none")
        record = RunRecord.start(tmp_path / "run", config, "r1", fresh=True)
        texts = {"words": EvaluationText(tokens(3, 16, seed), 9, "some words", overlap, 90)}
        loaded = LoadedModel(model or build("Llama"), None, "random")
        return Subject(loaded, weights, texts, dtype, tmp_path / cache, record, Stages())

    return make


WORDS = EvalConfig(perplexity={"words": PerplexityConfig(context=16)})


def entry(subject):
    return subject.record.data["perplexity"]["words"]


def test_it_is_the_mean_over_predicted_tokens(subject):
    found = subject()
    Evaluation(WORDS, found).quantized()
    windows = found.texts["words"].windows
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


def test_overlap_counts_each_token_once(subject):
    found = subject(overlap=12)
    Evaluation(WORDS, found).quantized()
    assert (entry(found)["tokens"], entry(found)["scored_tokens"]) == (16 + 2 * 4, 15 + 2 * 4)


def test_a_known_one_is_looked_up_and_anything_else_is_measured(subject):
    first = subject()
    Evaluation(WORDS, first).full_precision()
    assert first.listener.steps
    again = subject()
    Evaluation(WORDS, again).full_precision()
    assert entry(again)["full_precision"] == entry(first)["full_precision"]
    assert not again.listener.steps
    assert "known from an earlier run" in again.listener.messages[0]
    changes = {"weights": "b", "seed": 2, "overlap": 3, "dtype": torch.bfloat16, "cache": "other"}
    for name, value in changes.items():
        other = subject(**{name: value})
        Evaluation(WORDS, other).full_precision()
        assert other.listener.steps, name


@pytest.mark.parametrize("damage", ["{", "[]", '{"perplexity": "x"}', "{}"])
def test_a_damaged_entry_is_measured_anew(subject, tmp_path, damage):
    first = subject()
    Evaluation(WORDS, first).full_precision()
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text(damage)
    again = subject()
    Evaluation(WORDS, again).full_precision()
    assert entry(again)["full_precision"] == entry(first)["full_precision"]
    assert again.listener.steps


def test_infinity_is_no_reason_to_fail(subject):
    model = build("Llama")
    model.lm_head.weight.zero_()
    model.lm_head.weight[0] = 1e30
    found = subject(model)
    Evaluation(WORDS, found).full_precision()
    assert entry(found)["full_precision"] == math.inf
    assert entry(found)["full_precision_bits_per_byte"] == math.inf


def test_agreement_compares_with_the_model_as_it_was(subject):
    config = WORDS.model_copy(update={"agreement": AgreementConfig(max_windows=2)})
    found = subject()
    windows = found.texts["words"].windows[:2]
    with torch.no_grad():
        before = found.model(windows).logits[:, :-1].double().log_softmax(-1)
    evaluation = Evaluation(config, found)
    evaluation.full_precision()
    assert found.record.data["agreement"] == {}
    for parameter in found.model.model.layers.parameters():
        parameter.mul_(0.8)
    with torch.no_grad():
        after = found.model(windows).logits[:, :-1].double().log_softmax(-1)
    evaluation.quantized()
    result = found.record.data["agreement"]["words"]
    expected = (before.exp() * (before - after)).sum(-1).mean().item()
    assert math.isclose(result["kl_divergence"], expected, rel_tol=1e-4)
    assert (result["windows"], result["tokens"]) == (2, 30)


def test_without_quantization_nothing_is_kept_for_agreement(subject):
    config = WORDS.model_copy(update={"agreement": AgreementConfig()})
    found = subject()
    Evaluation(config, found, quantizes=False).full_precision()
    assert list(found.listener.steps) == ["perplexity of full precision on words"]
