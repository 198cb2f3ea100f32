"""The Python API, against the command line's pipeline on the same model and text."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import crvq
from crvq.config.presets import conf_folder, finetune_preset, method_preset
from crvq.errors import ConfigError
from crvq.methods.crvq_params import CrvqParams
from crvq.pipeline.run import run
from crvq.tracking.events import RunListener
from crvq.tracking.record_schema import read_record

FAST = CrvqParams(codebook_bits=4, extended_bits=3, max_rounds=1, kmeans_iterations=2)


@pytest.fixture
def tiny(tiny_folder):
    return (
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        AutoTokenizer.from_pretrained(tiny_folder),
    )


def quantized(tiny, text, **options):
    options = {"activation_dtype": "float32", "progress": False, **options}
    return crvq.quantize(*tiny, options.pop("method", FAST), text=text, **options)


@pytest.mark.parametrize("finetune", [None, "block"])
def test_it_gives_what_the_command_gives(finetune, tiny, tiny_texts, compose_run):
    asked = [] if finetune is None else [f"finetune={finetune}", "finetune.samples=8"]
    folder = run(compose_run(*asked, "calibration.length=32", "eval=none"))
    tuning = None
    if finetune is not None:
        tuning = finetune_preset(finetune).model_copy(update={"samples": 8})
    text = tiny_texts[0].read_text()
    result = quantized(tiny, text, samples=4, length=32, finetune=tuning)
    record = read_record(folder)
    assert result.record["result_digest"] == record["result_digest"]
    assert result.record["bits"] == record["bits"]
    assert result.bits_per_weight == record["bits"]["average_quantized_weights"]
    assert len(result.layers) == 21
    assert result.record["status"] == "complete"


def test_the_model_holds_the_packed_weights(tiny, tiny_texts):
    from crvq.checkpoint import BlockStore

    result = quantized(tiny, tiny_texts[0].read_text(), samples=4, length=32)
    stored = BlockStore.read(result.folder).load_block(1).weights["mlp.up_proj"]
    found = result.model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(found, stored.dequantize())


def test_windows_documents_and_callbacks(tiny, tiny_texts):
    words = tiny_texts[0].read_text()
    heard = []

    class Heard(RunListener):
        def block_quantized(self, block, rows, seconds):
            heard.append(block)

    ids = tiny[1](words)["input_ids"]
    windows = torch.tensor(ids[: 4 * 32]).view(4, 32)
    result = quantized(tiny, windows, callbacks=[Heard()])
    assert heard == [0, 1, 2]
    assert result.record["config"]["calibration"]["samples"] == 4
    half = len(words) // 2
    quantized(tiny, [words[:half], words[half:]], samples=2, length=16, method="rtn")


def test_a_bit_budget_is_met(tiny, tiny_texts):
    # Codebooks weigh much on a model this small: budgets are far above 2 bits.
    result = quantized(tiny, tiny_texts[0].read_text(), samples=2, length=32, bits=6.0)
    assert result.bits_per_weight == pytest.approx(6.0, rel=0.2)


BAD = {
    "preset": ({"method": "crvq_1bti"}, "did you mean 'crvq_1bit'"),
    "parameters": ({"method": object()}, "typed parameters"),
    "fine-tuning": ({"finetune": "blok"}, "finetune='blok'"),
    "length": ({"length": 65}, "length=65 is longer than the model's context of 64"),
    "empty": ({"text": "  "}, "holds no text"),
    "short": ({"text": "w1 w2", "length": 32}, "text"),
    "floats": ({"text": torch.zeros(2, 8)}, "integers of shape"),
    "tokens": ({"text": torch.full((2, 8), 96)}, "from 0 to 95"),
    "skip": ({"skip": ["proj"]}, "leaves no linear layer"),
    "nothing": ({"method": "full_precision"}, "quantizes nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_clear_error(case, tiny, tiny_texts):
    options, message = BAD[case]
    options = {"text": tiny_texts[0].read_text(), **options}
    before = {name: one.clone() for name, one in tiny[0].state_dict().items()}
    with pytest.raises(crvq.errors.CrvqError, match=message):
        quantized(tiny, options.pop("text"), **options)
    assert all(torch.equal(one, before[name]) for name, one in tiny[0].state_dict().items())


def test_every_preset_is_what_hydra_composes(compose_config):
    from crvq.cli.typed_config import typed_config

    for path in sorted((conf_folder() / "method").glob("[!_]*.yaml")):
        typed = typed_config(compose_config(f"method={path.stem}"))
        assert method_preset(path.stem) == (typed.method, typed.method_params), path.stem
    for path in sorted((conf_folder() / "finetune").glob("[!_]*.yaml")):
        if path.stem == "paper":  # needs more windows than the default calibration has
            continue
        composed = compose_config(f"finetune={path.stem}", "calibration.samples=16")
        assert finetune_preset(path.stem) == typed_config(composed).finetune, path.stem


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="quantise"):
        _ = crvq.quantise
    with pytest.raises(ConfigError, match=r"Known: .*crvq_paper"):
        method_preset("nothing like it")


def test_importing_is_cheap():
    program = "import sys, crvq; print(int('torch' in sys.modules), int('hydra' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.split() == ["0", "0"]
