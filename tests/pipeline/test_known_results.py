import json
import shutil

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from crvq.pipeline import fingerprint as known_results
from crvq.pipeline.fingerprint import KnownResults
from crvq.pipeline.run import run

CPU = torch.device("cpu")


def cross_entropy_perplexity(folder, text, context, count):
    """The same number without this package: transformers' logits, torch's cross-entropy."""
    tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    windows = torch.tensor(tokens[: context * count]).view(count, context)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    with torch.no_grad():
        logits = model(windows).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).exp().item()


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 4.0, "rope_type": "default"}},
        {"model_type": "mistral", "sliding_window": 2, "architectures": ["MistralForCausalLM"]},
    ],
)
def test_equal_weights_with_another_config_are_measured_themselves(
    compose_run, tiny_folder, tiny_texts, tmp_path, change
):
    changed = tmp_path / "changed"
    shutil.copytree(tiny_folder, changed)
    file = changed / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    found = []
    for folder in (tiny_folder, changed):
        done = run(compose_run("method=full_precision", f"model.path={folder}"))
        record = json.loads((done / "record.json").read_text())
        found.append(record["perplexity"]["file"]["full_precision"])
        right = cross_entropy_perplexity(folder, tiny_texts[1].read_text(), 64, 3)
        assert found[-1] == pytest.approx(right, rel=1e-5)
    assert found[0] != found[1]


def known(tmp_path, **changed):
    values = {"cache": tmp_path, "model": "m", "activation_dtype": torch.float32, "device": CPU}
    return KnownResults(**{**values, **changed})


def test_only_the_very_same_question_finds_an_answer(tmp_path, monkeypatch):
    known(tmp_path).keep({"perplexity": 3.5}, "perplexity", "tokens", 0)
    assert known(tmp_path).find("perplexity", "tokens", 0) == {"perplexity": 3.5}
    assert known(tmp_path).find("perplexity", "tokens", 1) is None
    assert known(tmp_path, model="n").find("perplexity", "tokens", 0) is None
    low = known(tmp_path, activation_dtype=torch.bfloat16)
    assert low.find("perplexity", "tokens", 0) is None
    for name, value in (("REVISION", 2), ("version", lambda _: "9"), ("compute_kind", str)):
        with monkeypatch.context() as patched:
            patched.setattr(known_results, name, value)
            assert known(tmp_path).find("perplexity", "tokens", 0) is None, name


def test_a_damaged_or_misplaced_answer_is_none(tmp_path):
    known(tmp_path).keep({"perplexity": 3.5}, "a")
    (first,) = (tmp_path / "full_precision").iterdir()
    known(tmp_path).keep({"perplexity": 4.5}, "b")
    (second,) = set((tmp_path / "full_precision").iterdir()) - {first}
    content = first.read_bytes()
    for place in range(len(content)):
        first.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert known(tmp_path).find("a") is None
    first.write_bytes(second.read_bytes())
    assert known(tmp_path).find("a") is None
    assert known(tmp_path).find("b") == {"perplexity": 4.5}
