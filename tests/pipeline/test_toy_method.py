"""A new method is one Python file and one YAML: nothing else has to know of it."""

import importlib
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import crvq.methods
from crvq.cli.preflight import check_command
from crvq.cli.typed_config import typed_config
from crvq.methods.registry import METHODS
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from crvq.weights.quantized import FORMATS
from tests.conftest import ROOT, combined

PYTHON = '''
"""Round every weight to its sign times the row's mean magnitude."""

from crvq.config.strict import StrictModel
from crvq.methods.method import Method, QuantizedLinear
from crvq.methods.registry import register_method
from crvq.weights.fields import Field, Sizes
from crvq.weights.quantized import QuantizedWeight


class SignWeight(QuantizedWeight):
    format = "toy_sign"
    header_type = Sizes

    def __init__(self, signs, scales):
        self.signs, self.scales = signs, scales

    def dequantize(self):
        return (2.0 * self.signs - 1) * self.scales.float()[:, None]

    @classmethod
    def stored_fields(cls, sizes):
        rows, columns = sizes.out_features, sizes.in_features
        return [Field("signs", "codes", (rows, columns), 1), Field("scales", "scales", (rows,))]

    def sizes(self):
        return Sizes(out_features=self.signs.shape[0], in_features=self.signs.shape[1])

    def values(self):
        return {"signs": self.signs, "scales": self.scales}

    @classmethod
    def from_values(cls, sizes, values):
        return cls(values["signs"], values["scales"])


class ToyParams(StrictModel):
    gain: float = 1.0


@register_method("toy")
class ToyMethod(Method):
    Params = ToyParams

    def quantize_block(self, block, linears):
        for linear in linears:
            scales = linear.weight.abs().mean(1).mul(self.params.gain).half()
            weight = SignWeight((linear.weight > 0).long(), scales)
            yield QuantizedLinear(linear, weight, 0.0, 0.0, 0, 0.0)
'''
YAML = """# @package _global_
method: toy
compare_with: null
toy:
  gain: 1.5
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The two files, next to the package's own, and the folder of the YAML."""
    code, conf = tmp_path / "methods", tmp_path / "conf"
    (conf / "method").mkdir(parents=True)
    code.mkdir()
    (code / "toy.py").write_text(PYTHON)
    (conf / "method" / "toy.yaml").write_text(YAML)
    monkeypatch.setattr(crvq.methods, "__path__", [*crvq.methods.__path__, str(code)])
    importlib.import_module("crvq.methods.toy")
    yield conf
    sys.modules.pop("crvq.methods.toy")
    METHODS.remove("toy")
    FORMATS.remove("toy_sign")


def test_a_toy_method_runs_from_the_command_line_to_the_record(toy, tiny_overrides):
    overrides = [o for o in combined(tiny_overrides, []) if not o.startswith("crvq.")]
    overrides += ["method=toy", "toy.gain=0.5"]
    check_command([*overrides, "--config-dir", str(toy)], ROOT / "conf", "config")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=[*overrides, f"hydra.searchpath=[file://{toy}]"])
    typed = typed_config(config)
    assert typed.method_params.gain == 0.5
    folder = run(typed)
    record = read_record(folder)
    assert record["status"] == "complete"
    bits = record["bits"]
    total = bits["average_quantized_weights"] * bits["quantized_weights"]
    assert total == 8 * record["packed_bytes"]
    assert 1.0 < bits["average_quantized_weights"] < 2.0
    assert record["perplexity"]["file"]["quantized"] > 1
