"""docs/extending.md is what its reader types: a method of a file of one's own, with a format."""

import re
import sys

import pandas as pd
import pytest

from crvq import plugins
from crvq.cli.config_store import store_defaults
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError
from crvq.methods.registry import METHODS
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from crvq.weights.quantized import FORMATS
from tests.conftest import ROOT, combined

DOCUMENT = (ROOT / "docs" / "extending.md").read_text()


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)[number]


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """The document's two files, named as it says; the folder of the preset."""
    (tmp_path / "presets" / "method").mkdir(parents=True)
    (tmp_path / "signs.py").write_text(block("python"))
    (tmp_path / "presets" / "method" / "signs_09.yaml").write_text(block("yaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(plugins.VARIABLE, "signs")
    plugins.load_plugins()
    store_defaults()
    yield tmp_path / "presets"
    plugins._loaded.discard("signs")
    sys.modules.pop("signs", None)
    METHODS.remove("signs")
    FORMATS.remove("signs")


def composed(overrides, folder, tiny_overrides):
    own = [o for o in combined(tiny_overrides, []) if not o.startswith("crvq.")]
    checked = check_command(
        [*own, *overrides, "--config-dir", str(folder)], ROOT / "conf", "config"
    )
    assert checked is not None
    return checked[1][-1]


def test_a_method_of_ones_own_runs_trains_and_is_counted(signs, tiny_overrides):
    more = ["finetune=block", "finetune.train=[scales,norms]", "finetune.samples=8"]
    more += ["calibration.batch_size=1", "finetune.block.epochs=4", "finetune.block.batch_size=4"]
    config = composed(["method=signs_09", "signs.gain=0.8", *more], signs, tiny_overrides)
    assert config.method_params.gain == 0.8
    folder = run(config)
    record = read_record(folder)
    assert record["status"] == "complete"
    bits = record["bits"]
    total = bits["average_quantized_weights"] * bits["quantized_weights"]
    assert total == 8 * record["packed_bytes"]
    assert 1.0 < bits["average_quantized_weights"] < 2.0
    losses = pd.read_csv(folder / "finetune.csv").groupby("block")["validation_loss"]
    assert (losses.min() < losses.first()).all()
    assert record["perplexity"]["file"]["quantized"] > 1


@pytest.mark.parametrize("method", ["signs", "signs_09"])
def test_its_defaults_and_presets_are_known(signs, tiny_overrides, method):
    config = composed([f"method={method}"], signs, tiny_overrides)
    assert config.method == "signs"
    assert config.method_params.gain == (1.0 if method == "signs" else 0.9)


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "no_such_module_here")
    with pytest.raises(ConfigError, match=r"'no_such_module_here'.*CRVQ_PLUGINS.*PYTHONPATH"):
        plugins.load_plugins()
