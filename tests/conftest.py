"""A tiny model, local text and composed configurations, for tests that run the whole program."""

import os
import random
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crvq.cli.typed_config import typed_config
from tests.fresh import FreshProcesses

# A busy machine is no reason to fail.
settings.register_profile("crvq", deadline=None)
settings.load_profile("crvq")

# Runs wait for the disk with each file; files of tests may lie in memory, where that is a matter
# of microseconds. A container's /dev/shm of 64 MiB is too small.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

ROOT = Path(__file__).parents[1]
WORDS = 96
FAST_METHOD = (
    "crvq.codebook_bits=4",
    "crvq.extended_bits=3",
    "crvq.max_rounds=1",
    "crvq.kmeans_iterations=2",
)


def save_tokenizer(folder):
    """One token a word: w0, w1, ..."""
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


def save_tiny_model(folder):
    """Three Llama blocks of random weights and a tokenizer, as save_pretrained writes them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


def save_tiny_texts(folder):
    """Write a text to calibrate on and another to evaluate on, 1000 words each; their paths."""
    paths = folder / "calibration.txt", folder / "heldout.txt"
    draw = random.Random(0)
    for path in paths:
        path.write_text(" ".join(f"w{draw.randrange(1, WORDS)}" for _ in range(1000)))
    return paths


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of the tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory):
    """Paths of a text to calibrate on and of another to evaluate on."""
    return save_tiny_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def tiny_overrides(tiny_folder, tiny_texts, tmp_path):
    """Overrides that make ``python run.py`` a matter of a second; no hub, no W&B."""
    calibration, heldout = tiny_texts
    return [
        "model=folder",
        f"model.path={tiny_folder}",
        "calibration=file",
        f"calibration.path={calibration}",
        "calibration.samples=4",
        "calibration.length=64",
        "eval=file",
        f"eval.perplexity.file.path={heldout}",
        "eval.perplexity.file.context=64",
        "eval.perplexity.file.max_windows=3",
        "tracking=disabled",
        "activation_dtype=float32",
        f"results_dir={tmp_path / 'results'}",
        f"cache_dir={tmp_path / 'cache'}",
        *FAST_METHOD,
    ]


@cache
def composed_once(overrides):
    """Compose ``conf/`` with overrides; a tenth of a second, so tests of one kind share it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@cache
def parsed_value(override):
    """The override as Hydra's grammar has it if it sets one present key, else None.

    What chooses a file (``method=gptq``), adds or removes takes part in the composition itself.
    """
    if not override[0].isalpha() or (ROOT / "conf" / override.partition("=")[0]).is_dir():
        return None
    parsed = OverridesParser.create().parse_override(override)
    return None if parsed.is_sweep_override() or parsed.package is not None else parsed


@pytest.fixture
def compose_config():
    """Compose ``conf/`` with overrides, as Hydra does for ``python run.py``.

    Hydra sets values once files are put together; so does this, on what tests of one kind share.
    """

    def composed(*overrides):
        overrides = [str(one) for one in overrides]
        values = {one: parsed for one in overrides if (parsed := parsed_value(one)) is not None}
        config = deepcopy(composed_once(tuple(one for one in overrides if one not in values)))
        ConfigLoaderImpl._apply_overrides_to_config(
            [values[one] for one in overrides if one in values], config
        )
        return config

    return composed


def combined(tiny, overrides):
    """The tiny run's overrides and more, less those for keys that are then no longer there."""
    gone = {"eval=none": "eval", "eval=quick": "eval", "method=full_precision": "crvq."}
    dropped = tuple(gone[override] for override in overrides if override in gone)
    return [override for override in tiny if not override.startswith(dropped)] + [*overrides]


@pytest.fixture
def compose_run(compose_config, tiny_overrides):
    """A typed configuration of a tiny run, with more overrides."""

    def composed(*overrides):
        return typed_config(compose_config(*combined(tiny_overrides, overrides)))

    return composed


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """Runs programs in processes of their own that have imported torch."""
    processes = FreshProcesses(tmp_path_factory.mktemp("fresh"))
    yield processes
    processes.close()
