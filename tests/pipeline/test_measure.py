import math

import torch

from crvq.pipeline.measure import full_precision_perplexity, measure_perplexity
from crvq.pipeline.texts import EvaluationText
from crvq.tracking.events import RunListener
from tests.architectures import build, tokens


class Stages(RunListener):
    """Counts windows by stage."""

    def __init__(self):
        self.steps, self.messages = {}, []

    def stage_advanced(self, stage, note=""):
        self.steps[stage] = self.steps.get(stage, 0) + 1

    def message(self, text):
        self.messages.append(text)


def texts(seed=1):
    return {"words": EvaluationText(tokens(3, 16, seed), 9, "some words")}


def full_precision(model, cache, listener, *, weights="a", seed=1):
    return full_precision_perplexity(model, weights, texts(seed), torch.float32, cache, listener)[
        "words"
    ]


def test_it_is_the_mean_over_predicted_tokens():
    model, listener = build("Llama"), Stages()
    found = measure_perplexity(model, texts(), torch.float32, "quantized", listener)
    windows = texts()["words"].windows
    with torch.no_grad():
        logs = model(windows).logits[:, :-1].double().log_softmax(-1)
    nll = -logs.gather(2, windows[:, 1:, None]).mean()
    assert math.isclose(found["words"], math.exp(float(nll)), rel_tol=1e-5)
    assert listener.steps == {"perplexity of quantized on words": 3}


def test_a_known_one_is_looked_up_and_anything_else_is_measured(tmp_path):
    model, first = build("Llama"), Stages()
    value = full_precision(model, tmp_path, first)
    assert first.steps
    again = Stages()
    assert full_precision(model, tmp_path, again) == value
    assert not again.steps
    assert "known from an earlier run" in again.messages[0]
    for changed in ({"weights": "b"}, {"seed": 2}):
        other = Stages()
        full_precision(model, tmp_path, other, **changed)
        assert other.steps, changed


def test_a_damaged_entry_is_measured_anew(tmp_path):
    model = build("Llama")
    value = full_precision(model, tmp_path, Stages())
    for file in tmp_path.rglob("*.json"):
        file.write_text("{")
    listener = Stages()
    assert full_precision(model, tmp_path, listener) == value
    assert listener.steps


def test_infinity_is_no_reason_to_fail(tmp_path, monkeypatch):
    monkeypatch.setattr("crvq.pipeline.measure.measure_perplexity", lambda *a: {"words": math.inf})
    assert full_precision(build("Llama"), tmp_path, Stages()) == math.inf
