"""Hub configurations through the real clients, against a hub on this machine."""

import gzip
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from huggingface_hub import constants
from transformers import OPTConfig, OPTForCausalLM

from crvq.config import ModelConfig, TextConfig
from crvq.data.text import load_documents
from crvq.errors import SourceError
from crvq.models.load import load_model
from crvq.sources import hub as hub_module
from tests.conftest import WORDS, save_tokenizer
from tests.hub.server import Hub, Repository
from tests.zero_shot_data import arc_questions, piqa_questions

ROOT = Path(__file__).parents[2]
README = b"""---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - split: test
    path: wikitext-2-raw-v1/test-*
  - split: train
    path: wikitext-2-raw-v1/train-*
---
"""
ARC = b"""---
configs:
- config_name: ARC-Easy
  data_files:
  - split: train
    path: ARC-Easy/train-*
  - split: validation
    path: ARC-Easy/validation-*
  - split: test
    path: ARC-Easy/test-*
---
"""
PIQA = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
---
"""
SMALL = (
    "calibration.length=32", "calibration.samples=4", "tracking=disabled",
    "activation_dtype=float32",
)  # fmt: skip
PAPERS = (
    "eval=papers", "eval.perplexity.wikitext2.context=32", "eval.perplexity.c4.context=32",
    "eval.perplexity.wikitext2.max_windows=3", "eval.perplexity.c4.max_windows=3",
)  # fmt: skip


def made_texts(seed, count, length):
    draw = random.Random(seed)
    return [
        " ".join(f"w{draw.randrange(1, WORDS)}" for _ in range(draw.randrange(length, 3 * length)))
        for _ in range(count)
    ]


def parquet(texts):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file)
    return file.getvalue()


def shard(texts):
    lines = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts)
    return gzip.compress(lines.encode(), mtime=0)


def model_files(folder, **saving):
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=WORDS, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder, **saving)
    save_tokenizer(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def questions(rows):
    file = io.BytesIO()
    rows.to_parquet(file)
    return file.getvalue()


def task_datasets():
    """What lm-eval's arc_easy and piqa read; each split has questions of its own."""
    draw = random.Random(6)
    arc = {
        f"ARC-Easy/{split}-00000-of-00001.parquet": questions(arc_questions(draw))
        for split in ("train", "validation", "test")
    }
    piqa = {
        f"data/{split}-00000-of-00001.parquet": questions(piqa_questions(draw))
        for split in ("train", "validation")
    }
    return {
        "allenai/ai2_arc": Repository({"main": {"README.md": ARC, **arc}}),
        "baber/piqa": Repository({"main": {"README.md": PIQA, **piqa}}),
    }


class Worker:
    """A process that runs configurations with the hub's clients."""

    def __init__(self, home, cache, **environment):
        ours = {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ours |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CRVQ_"))}
        self.cache, self.results = cache, cache.parent / "results"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "worker.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**clean, **ours, **environment},
        )  # fmt: skip

    def ask(self, action, *overrides):
        places = (f"cache_dir={self.cache}", f"results_dir={self.results}")
        self.process.stdin.write(json.dumps([action, [*overrides, *places]]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("reply "):
                return json.loads(line.removeprefix("reply "))
        pytest.fail(f"the worker ended with {self.process.wait()}")
        return {}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    sharded = model_files(folder / "sharded", max_shard_size="8KB")
    whole = model_files(folder / "whole")
    pickled = {n: c for n, c in whole.items() if not n.endswith(".safetensors")}
    wikitext = {
        "README.md": README,
        "wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet(made_texts(1, 30, 20)),
        "wikitext-2-raw-v1/train-00000-of-00001.parquet": parquet(made_texts(2, 30, 20)),
    }
    c4 = {
        "en/c4-train.00000-of-01024.json.gz": shard(made_texts(3, 60, 40)),
        "en/c4-validation.00000-of-00008.json.gz": shard(made_texts(4, 60, 40)),
    }
    red = {"default/train/0000.parquet": parquet(made_texts(5, 50, 30))}
    served = Hub(
        models={
            "facebook/opt-125m": Repository({"main": sharded}),
            "facebook/opt-350m": Repository({"main": {**pickled, "pytorch_model.bin": b"\x80"}}),
            "facebook/opt-1.3b": Repository({"main": whole}),
            "meta-llama/Llama-2-7b-hf": Repository({"main": whole}),
        },
        datasets={
            "Salesforce/wikitext": Repository({"main": wikitext}),
            "allenai/c4": Repository({"main": c4}),
            "togethercomputer/RedPajama-Data-1T-Sample": Repository(
                {"main": {"README.md": b""}, "refs/convert/parquet": red}
            ),
            **task_datasets(),
        },
        gated={"meta-llama/Llama-2-7b-hf"},
    )
    served.endpoint = served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    return folder / "home", folder / "cache"


@pytest.fixture(scope="module")
def online(hub, places):
    worker = Worker(*places, HF_ENDPOINT=hub.endpoint)
    yield worker
    worker.process.kill()
    worker.process.wait()


@pytest.fixture(scope="module")
def offline(places):
    worker = Worker(*places, HF_HUB_OFFLINE="1")
    yield worker
    worker.process.kill()
    worker.process.wait()


def test_hub_configurations_from_download_to_offline(hub, online, offline):
    """Sharded safetensors, WikiText-2, C4 and RedPajama: fetched, then cached, then offline."""
    papers = ("model=opt-125m", "calibration=c4", *SMALL, *PAPERS)
    red = ("model=opt-125m", "calibration=redpajama", "eval=wikitext2", *SMALL, PAPERS[1])
    first = online.ask("texts", *papers)
    commit = hub.models["facebook/opt-125m"].commit("main")
    assert first["model"] == f"facebook/opt-125m@{commit}"
    assert first["evaluation"].keys() == {"wikitext2", "c4"}
    windows = {tuple(window) for window in first["calibration"][1]}
    # One token per word and none for the blank lines between documents.
    stream = [int(w[1:]) for text in made_texts(3, 60, 40) for w in text.split()]
    assert windows <= {tuple(stream[i : i + 32]) for i in range(len(stream) - 31)}
    other = online.ask("texts", *red)
    assert "RedPajama" in other["calibration"][0]

    hub.requests.clear()
    again = online.ask("texts", *papers)
    timeless = {key: value for key, value in first.items() if key != "seconds"}
    assert {key: value for key, value in again.items() if key != "seconds"} == timeless
    fetched = [one for one in hub.requests if "/cdn/" in one and one.startswith("GET")]
    assert fetched == []

    hub.requests.clear()
    for asked, found in ((papers, first), (red, other)):
        kept = offline.ask("texts", *asked)
        assert kept["calibration"] == found["calibration"]
        assert kept["evaluation"] == found["evaluation"]
        assert kept["model"] == found["model"]
    assert hub.requests == []


def zero_shot(tasks):
    return f"++eval.zero_shot={{tasks: [{tasks}], source: hub, limit: 4, batch_size: 2}}"


def test_zero_shot_tasks_from_download_to_offline(hub, online, offline):
    """lm-eval's own definitions, through `datasets`: fetched, then cached, then offline."""
    asked = ("model=opt-125m", "eval=none", *SMALL, zero_shot("arc_easy,piqa"))
    hub.requests.clear()
    first = online.ask("tasks", *asked)
    assert first.get("error") is None, first
    assert first["source"] == "hub"
    assert [list(data.values()) for data in first["data"]] == [
        ["allenai/ai2_arc ARC-Easy test (hub)"],
        ["baber/piqa validation (hub)"],
    ]
    served = {
        "arc_easy": ("allenai/ai2_arc", "ARC-Easy/test"),
        "piqa": ("baber/piqa", "data/validation"),
    }
    for task, (repository, split) in served.items():
        content = hub.datasets[repository].revisions["main"][f"{split}-00000-of-00001.parquet"]
        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        assert first["questions"][task] == rows[:4]
        assert any(split in one and "/cdn/" in one for one in hub.requests)

    hub.requests.clear()
    again = online.ask("tasks", *asked)
    assert (again["digests"], again["questions"]) == (first["digests"], first["questions"])
    assert [one for one in hub.requests if "/cdn/" in one and one.startswith("GET")] == []

    hub.requests.clear()
    kept = offline.ask("tasks", *asked)
    assert (kept["digests"], kept["questions"]) == (first["digests"], first["questions"])
    refused = offline.ask("tasks", *asked[:-1], zero_shot("boolq"))
    assert refused["error"] == "SourceError"
    assert "its questions are not on the hub or in its cache" in refused["message"]
    assert hub.requests == []


def test_scores_of_a_run_with_tasks_from_the_hub(online):
    asked = ("model=opt-125m", "calibration=c4", "method=rtn", "eval=none", *SMALL)
    found = online.ask("run", *asked, zero_shot("arc_easy,piqa"))
    scores = json.loads((Path(found["folder"]) / "record.json").read_text())["zero_shot"]
    assert {task: entry["source"] for task, entry in scores.items()} == {
        "arc_easy": "hub",
        "piqa": "hub",
    }
    assert scores["piqa"]["samples"] == 4


def test_a_whole_run_from_the_hub(online):
    found = online.ask("run", "model=opt-125m", "calibration=c4", "method=rtn", *SMALL, *PAPERS)
    record = json.loads((Path(found["folder"]) / "record.json").read_text())
    assert record["status"] == "complete"
    assert record["perplexity"]["c4"]["quantized"] > 1


def test_new_data_on_the_hub_is_read(hub, online):
    asked = ("model=opt-125m", "calibration=wikitext2", "eval=none", *SMALL)
    before = online.ask("texts", *asked)
    files = hub.datasets["Salesforce/wikitext"].revisions["main"]
    name = "wikitext-2-raw-v1/train-00000-of-00001.parquet"
    old, files[name] = files[name], parquet(made_texts(9, 30, 20))
    after = online.ask("texts", *asked)
    files[name] = old
    assert before["calibration"][1] != after["calibration"][1]
    assert online.ask("texts", *asked)["calibration"] == before["calibration"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model=llama-2-7b",), r"Llama-2-7b-hf is gated: accept its licence .* `hf auth login`"),
        (("model=opt-125m", "model.revision=v9"), "has no revision v9"),
        (("model=opt-125m", "model.repo=facebook/gone"), "has no repository facebook/gone"),
        (("model=opt-350m",), "only pickled|nothing but pickled|safetensors"),
    ],
    ids=["gated", "revision", "repository", "pickled"],
)
def test_refusals_say_what_to_do(online, overrides, says):
    found = online.ask("model", *overrides, "tracking=disabled")
    assert found["error"] == "SourceError"
    assert re.search(says, found["message"]), found["message"]
    assert "Try one of: model=smollm2-135m" in found["message"]


def test_a_gated_dataset_and_a_missing_revision_of_one(hub, online):
    model = ("model=opt-125m", "eval=none", *SMALL)
    hub.gated.add("allenai/c4")
    found = online.ask("texts", *model, "calibration=c4", "calibration.max_documents=9")
    hub.gated.remove("allenai/c4")
    assert "calibration: cannot read allenai/c4" in found["message"]
    assert "allenai/c4 is gated" in found["message"]
    found = online.ask("texts", *model, "calibration=wikitext2", "calibration.revision=v9")
    assert "Salesforce/wikitext has no revision v9" in found["message"]


def test_a_connection_that_drops_is_taken_up_again(hub, online, places):
    hub.drops["model.safetensors"] = 1
    found = online.ask("model", "model=opt-1.3b", "model.dtype=float32", "tracking=disabled")
    assert found.get("error") is None, found
    assert hub.drops["model.safetensors"] < 0  # it was cut, and asked for again


def test_a_damaged_file_in_the_hubs_cache_is_downloaded_again(hub, online, offline, places):
    asked = ("model", "model=opt-1.3b", "model.dtype=float32", "tracking=disabled")
    assert online.ask(*asked).get("error") is None
    for name in ("model.safetensors", "config.json"):
        (link,) = (places[0] / "hub/models--facebook--opt-1.3b").rglob(f"snapshots/*/{name}")
        stored, content = link.resolve(), link.read_bytes()
        for place in (len(content) - 5, len(content) // 2):
            stored.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert online.ask(*asked).get("error") is None
            assert link.read_bytes() == content
    stored = link.resolve()
    stored.write_bytes(content.replace(b"24", b"25"))
    assert "did not have the content" in offline.ask(*asked)["message"]


@pytest.fixture
def silent_hub(monkeypatch):
    """An endpoint that the system accepts connections for, and that never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        monkeypatch.setattr(hub_module, "PROBE_SECONDS", 0.2)
        monkeypatch.setattr(hub_module, "_answers", {})
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("silent_hub")
def test_without_a_hub_it_fails_fast(tmp_path):
    begun = time.monotonic()
    with pytest.raises(SourceError, match=r"did not answer within 0\.2 s(?s:.)*model=smollm2-135m"):
        load_model(ModelConfig(name="x", source="hub", repo="nobody/nothing"), tmp_path)
    config = TextConfig(source="hub", repo="nobody/nothing", max_documents=9, split="train")
    with pytest.raises(SourceError, match=r"did not answer within 0\.2 s(?s:.)*path=FILE"):
        load_documents(config, tmp_path)
    assert time.monotonic() - begun < 5
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("silent_hub")
def test_the_hub_is_asked_once_and_not_for_long(monkeypatch):
    begun = time.monotonic()
    assert not hub_module.hub_is_reachable()
    assert time.monotonic() - begun < 2
    monkeypatch.setattr(hub_module, "_probe", lambda: pytest.fail("asked again"))
    assert not hub_module.hub_is_reachable()
